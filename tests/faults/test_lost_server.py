"""Servers that go away, and strangers that speak something else."""

from __future__ import annotations

import asyncio
import struct
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mlserve.client import AsyncClient, Client, Retries
from mlserve.errors import InferenceFailed, MlserveError, Unavailable
from tests.harness.echo import PHOTO
from tests.harness.faulty import HTTP2_SETTINGS, Line
from tests.harness.raw_http2 import GOAWAY, frame

pytestmark = pytest.mark.server


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_that_is_killed_during_the_request(
    cli: Any, start_echo: Any, photo: Path, tmp_path: Path, protocol: str
) -> None:
    journal = tmp_path / "journal"
    server = start_echo(delay=3, journal=str(journal))
    warm_up = journal.read_text()

    def kill() -> None:
        pause = threading.Event()
        while journal.read_text() == warm_up:
            pause.wait(0.01)
        server.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = cli("predict", photo, "--endpoint", server.endpoint(protocol), "--timeout", 30)
    killer.join()

    assert outcome.returncode == 5
    error, hint = outcome.stderr.splitlines()
    address = server.endpoint(protocol)
    assert error.startswith(f"error: no server answers at {address} (")
    assert f"(after 5 attempts; at first: the server at {address} went away during the" in error
    assert "mlserve ps" in hint


def test_a_call_that_a_server_which_stops_has_not_seen_is_asked_on_the_next_connection(
    faulty: Any, start_echo: Any
) -> None:
    """Also by a client that repeats nothing: it is the same attempt."""
    server, lines, once = start_echo(), count(), Retries(max_attempts=1)

    def stops_at_first(line: Line) -> None:
        if next(lines):
            line.relay(server.grpc)
            return
        line.send(HTTP2_SETTINGS)
        line.await_call()
        none_seen = struct.pack(">II", 0, 0) + b"the server is shutting down"
        line.send(frame(GOAWAY, 0, 0, none_seen))
        line.stall()

    with Client(faulty(stops_at_first), model=server.model, retries=once) as client:
        assert client.predict(PHOTO, timeout=20).label == "sorrel"
    assert next(lines) == 2


def test_a_connection_that_is_reset(faulty: Any) -> None:
    endpoint = faulty(lambda line: (line.await_bytes(), line.drop()))
    with (
        Client(f"http://{endpoint}", model="m") as client,
        pytest.raises(Unavailable, match="went away"),
    ):
        client.predict(b"photo", timeout=10)


def test_an_answer_that_is_cut_off(faulty: Any) -> None:
    endpoint = faulty(
        lambda line: (
            line.await_bytes(),
            line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
        )
    )
    with (
        Client(f"http://{endpoint}", model="m") as client,
        pytest.raises(Unavailable, match="went away"),
    ):
        client.predict(b"photo", timeout=10)


def _http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", InferenceFailed, "is not HTTP: "),
        (_http(b"<html>hello"), InferenceFailed, r"is not JSON: '<html>hello'"),
        (_http(b"[" * 100_000), InferenceFailed, r"is not JSON: '\[\["),
        (_http(b"[1, 2]"), InferenceFailed, "is not a JSON object"),
        (_http(b"{}"), InferenceFailed, "is not a predict answer with outputs"),
        (_http(b'{"outputs": [["a"], ["b", "c"]]}'), InferenceFailed, "lists of unequal length"),
        (_http(b'{"outputs": [null]}'), InferenceFailed, "None"),
        (_http(b'{"outputs": [{"b64": 3}]}'), InferenceFailed, "'b64': 3"),
        (_http(b"teapot", "418 I'm a teapot"), InferenceFailed, "HTTP 418 teapot"),
        (_http(b"no", "302 Found"), InferenceFailed, "HTTP 302 no"),
        (_http(b"\x1b[2Jgone\r\n", "502 Bad Gateway"), Unavailable, r"HTTP 502 \\x1b\[2Jgone"),
    ],
)
def test_an_answer_that_is_none(
    faulty: Any, answer: bytes, error: type[MlserveError], message: str
) -> None:
    endpoint = faulty(lambda line: (line.await_request(), line.send(answer)))
    with (
        Client(f"http://{endpoint}", model="m", api="tfs") as client,
        pytest.raises(error, match=message),
    ):
        client.predict(b"photo", timeout=10)


def test_a_connection_lost_while_an_error_is_handled_is_a_lost_connection(faulty: Any) -> None:
    """Python links the library's error to the one that is handled, which is another matter."""

    once = Retries(max_attempts=1)

    async def ask(endpoint: str) -> None:
        async with AsyncClient(f"http://{endpoint}", model="m", retries=once) as client:
            try:
                raise ValueError("illegal, malformed, invalid")
            except ValueError:
                await client.predict(b"photo", timeout=10)

    endpoint = faulty(lambda line: (line.await_request(), line.drop()))
    with pytest.raises(Unavailable, match="went away during the request") as caught:
        asyncio.run(ask(endpoint))
    assert "illegal" not in caught.value.message


def test_a_stranger_that_hangs_up_on_the_second_question(faulty: Any) -> None:
    """The client asks again, in the other API; what the first answer was says more than that."""
    endpoint = faulty(
        lambda line: (
            line.await_request(),
            line.send(_http(b"[1, 2]")),
            line.await_request(),
            line.drop(),
        )
    )
    with (
        Client(f"http://{endpoint}", model="m") as client,
        pytest.raises(InferenceFailed) as caught,
    ):
        client.predict(b"photo", timeout=10)
    assert "is not a JSON object" in caught.value.message
