"""The client's HTTP/1.1 against web servers that people run: uvicorn, Hypercorn, the stdlib's."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlserve import AsyncClient, Client, InputTooLarge
from mlserve.client import Retries
from mlserve.testing.processes import wait_until
from tests.client.http1_apps import digest
from tests.harness.web import WebServer, hypercorn, running, uvicorn

pytestmark = pytest.mark.server

HERE = Path(__file__).parent
ONCE = Retries(max_attempts=1)
SIZES = (0, 1000, 90_000, 100_000, 1_000_000)
SERVERS = {
    "uvicorn": uvicorn("http1_apps:app", "--http", "httptools"),
    "uvicorn with h11": uvicorn("http1_apps:app", "--http", "h11"),
    "hypercorn": hypercorn("http1_apps:app"),
    "stdlib": ("http1_apps",),
}


def image_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WebServer]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(tmp_path_factory.mktemp("web"), *argv, cwd=HERE))
            for name, argv in SERVERS.items()
        }


def url_of(servers: dict[str, WebServer], name: str) -> str:
    if name != "stdlib with HTTP/1.0":
        return servers[name].url

    def second() -> str | None:
        found = re.findall(r"running on (http://\S+)\n", servers["stdlib"].log())
        return found[1] if len(found) > 1 else None

    return wait_until(second)


@pytest.mark.parametrize("name", [*SERVERS, "stdlib with HTTP/1.0"])
def test_bodies_of_any_size_go_both_ways(servers: dict[str, WebServer], name: str) -> None:
    url = url_of(servers, name)
    for how in ("length", "chunks", "end") if "1.0" not in name else ("length", "end"):
        with Client(url, model=how, api="tfs", retries=ONCE) as client:
            for size in SIZES:
                assert client.predict(image_of(size), timeout=20).label == digest(image_of(size))


@pytest.mark.parametrize("name", SERVERS)
def test_calls_at_once_get_their_own_answers(servers: dict[str, WebServer], name: str) -> None:
    async def ask() -> list[str]:
        async with AsyncClient(url_of(servers, name), model="chunks", api="tfs") as client:
            calls = [client.predict(image_of(size), timeout=20) for size in range(60)]
            return [answer.label for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [digest(image_of(size)) for size in range(60)]


@pytest.mark.parametrize("name", SERVERS)
def test_a_refusal_before_the_body_is_read(servers: dict[str, WebServer], name: str) -> None:
    """The server closes, which resets the connection under the rest of the body."""
    with Client(url_of(servers, name), model="refused", api="tfs", retries=ONCE) as client:
        for _ in range(2):
            with pytest.raises(InputTooLarge, match="larger than 1 MB"):
                client.predict(bytes(6_000_000), timeout=20)
