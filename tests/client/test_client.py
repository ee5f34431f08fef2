"""The Python API: synchronous and asynchronous, inside and outside of an event loop."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlserve import AsyncClient, Client
from mlserve.client import Prediction
from mlserve.client.endpoint import Endpoint
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError, Unavailable, UsageError

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@PROTOCOLS
def test_a_path_bytes_or_an_open_file(echo: Any, photo: Path, protocol: str) -> None:
    with Client(echo.endpoint(protocol)) as client:
        for image in (photo, str(photo), photo.read_bytes(), io.BytesIO(photo.read_bytes())):
            assert client.predict(image, timeout=20).label == "sorrel"


@PROTOCOLS
def test_many_questions_at_once(echo: Any, protocol: str) -> None:
    async def ask() -> list[Prediction]:
        async with AsyncClient(echo.endpoint(protocol)) as client:
            return await asyncio.gather(*(client.predict(b"fine", timeout=20) for _ in range(20)))

    assert {found.label for found in asyncio.run(ask())} == {"sorrel"}


@PROTOCOLS
def test_the_sync_client_works_inside_a_running_loop(echo: Any, protocol: str) -> None:
    async def notebook() -> str:
        with Client(echo.endpoint(protocol)) as client:
            return client.predict(b"fine", timeout=20).label

    assert asyncio.run(notebook()) == "sorrel"


@PROTOCOLS
def test_metadata_and_status(echo: Any, protocol: str) -> None:
    with Client(echo.endpoint(protocol)) as client:
        metadata, (status,) = client.metadata(timeout=20), client.status(timeout=20)

    top_k = next(item for item in metadata.signatures if item.name == "top_k")
    assert [str(spec) for spec in top_k.inputs] == ["image: bytes[?]"]
    assert (status.version, status.state, status.is_available) == (1, "AVAILABLE", True)


def test_a_client_finds_a_server_that_comes_up_later() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        client = Client(endpoint, model="m")
        with pytest.raises(Unavailable, match="no server answers at"):
            client.predict(b"fine", timeout=20)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(endpoint)
    server.start()
    error = _first_other_error(client, Deadline.after(20))
    server.stop(None).wait()
    client.close()

    assert "does not allow the request" in error.message  # it has no service, and it said so


def _first_other_error(client: Client, deadline: Deadline) -> MlserveError:
    while True:
        with pytest.raises(MlserveError) as caught:
            client.predict(b"fine", timeout=deadline)
        if not isinstance(caught.value, Unavailable):
            return caught.value


def test_closing_twice(echo: Any) -> None:
    client = Client(echo.grpc)
    client.predict(b"fine", timeout=20)
    client.close()
    client.close()


def test_a_deadline_can_be_handed_in(echo: Any) -> None:
    with Client(echo.grpc) as client:
        found = client.predict(b"fine", timeout=Deadline.after(20, since=time.monotonic() - 1))
        assert found.timings.total >= found.timings.start >= 1000

        with pytest.raises(DeadlineExceeded, match="no answer within 1 s"):
            client.predict(b"fine", timeout=Deadline.after(1, since=time.monotonic() - 2))


@PROTOCOLS
@pytest.mark.parametrize("api", ["tfs", "oip"])
def test_where_the_time_went_in_our_own_server(start_echo: Any, protocol: str, api: Any) -> None:
    with Client(start_echo(delay=0.1).endpoint(protocol), api=api) as client:
        timings = client.predict(b"fine", timeout=20).timings

    assert timings.run is not None
    assert timings.run >= 100
    parts = timings.to_json()
    total = parts.pop("total")
    assert all(part is not None for part in parts.values())
    assert sum(part or 0 for part in parts.values()) == pytest.approx(total, abs=0.01)
    assert timings.start < 1000, "the process is older than that"


@PROTOCOLS
def test_a_server_that_cannot_make_it_says_whose_limit_that_is(
    start_echo: Any, protocol: str
) -> None:
    with Client(start_echo(delay=1).endpoint(protocol)) as client:
        with pytest.raises(DeadlineExceeded, match=r"^no answer within 0.5 s") as caught:
            client.predict(b"fine", timeout=0.5)
        assert "with timeout" in str(caught.value.hint)
        assert "not timeout" not in str(caught.value.hint)


def test_the_deadline_covers_a_stalled_file(echo: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def ask() -> None:
        async with AsyncClient(echo.grpc) as client:
            await client.predict(pipe, timeout=0.3)

    with pytest.raises(DeadlineExceeded, match=f"reading {pipe}"):
        asyncio.run(ask())


@pytest.mark.parametrize("image", ["missing.jpg", "."])
def test_a_file_that_cannot_be_read_is_named(image: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(UsageError, match=f"^{image} cannot be re"):
        client.predict(Path(image), timeout=20)


def test_top_k_is_at_least_one() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(UsageError, match="top_k must be at least"):
        client.predict(b"fine", top_k=0)


@pytest.mark.parametrize(
    ("text", "protocol", "shown", "host", "port"),
    [
        ("localhost:8500", None, "localhost:8500", "localhost", 8500),
        ("grpc://10.0.0.1:1", None, "10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:8500", None, "[::1]:8500", "::1", 8500),
        ("host:8501", "rest", "http://host:8501", "host", 8501),
        ("http://[::1]:8501/", None, "http://[::1]:8501", "::1", 8501),
        ("http://host", None, "http://host:80", "host", 80),
        ("https://host/models/a", "rest", "https://host:443/models/a", "host", 443),
    ],
)
def test_endpoints(text: str, protocol: Any, shown: str, host: str, port: int) -> None:
    endpoint = Endpoint.parse(text, protocol)

    assert (str(endpoint), endpoint.host, endpoint.port) == (shown, host, port)


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("", None),
        ("host", None),
        ("host:", None),
        ("host:port", None),
        ("host:99999", None),
        ("host:0", None),
        (":8500", None),
        ("::1:8500", None),
        ("[::1:8500", None),
        ("ho st:8500", None),
        ("ftp://host:21", None),
        ("grpc://host:1/path", None),
        ("http://host:1?x=1", None),
        ("http://me@host:1", None),
        ("http://host:1", "grpc"),
        ("grpc://host:1", "rest"),
    ],
)
def test_what_is_no_endpoint_is_named(text: str, protocol: Any) -> None:
    with pytest.raises(UsageError, match="is not an endpoint: ") as caught:
        Client(text, protocol=protocol)

    assert repr(text) in caught.value.message
    assert "127.0.0.1:8500" in str(caught.value.hint)
