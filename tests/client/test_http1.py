"""The REST client's connections: when they are used again, who gets one, and how they end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trustme

from mlserve import AsyncClient, Client, DeadlineExceeded, InputTooLarge, Tls
from mlserve.client import Retries, http1_pool
from mlserve.client.http import RestTransport
from mlserve.client.http1 import Http1Connection
from mlserve.errors import InferenceFailed, Unavailable, UsageError

pytestmark = [pytest.mark.server, pytest.mark.anyio]

LABEL = json.dumps({"outputs": {"labels": [["sorrel"]], "scores": [[1.0]]}}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LABEL) + LABEL
ONCE = Retries(max_attempts=1)
MODEL: Any = {"model": "m", "api": "tfs"}
LOOPS = pytest.mark.parametrize(
    "anyio_backend",
    [
        "asyncio",
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="it is not installed"),
            id="uvloop",
        ),
    ],
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the client sets no event
            await asyncio.sleep(0.001)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request, once all of it has come; empty at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = re.search(rb"content-length: (\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    return head


@asynccontextmanager
async def serving(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any
) -> AsyncIterator[str]:
    """A server in this event loop; its address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**24, **options)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()


def pool_of(client: AsyncClient) -> http1_pool.Pool:
    (transport,) = client._connections._transports.values()
    assert isinstance(transport, RestTransport)
    return transport._pool


class Counting:
    """A server that answers every request, and counts connections and requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await read_request(reader):
            self.heads.append(head)
            writer.write(OK)


@LOOPS
async def test_one_connection_serves_one_caller_and_the_last_used_is_used_next() -> None:
    server = Counting()
    async with serving(server) as address, AsyncClient(f"http://{address}", **MODEL) as client:
        for _ in range(3):
            await client.predict(b"x", timeout=20)
        assert server.connections == 1
        await asyncio.gather(*(client.predict(b"x", timeout=20) for _ in range(10)))
        assert 1 < server.connections <= 10
        last = next(reversed(pool_of(client)._idle))
        await client.predict(b"x", timeout=20)
        assert next(reversed(pool_of(client)._idle)) is last
        assert len(pool_of(client)._idle) == server.connections


def test_a_kept_connection_that_was_closed_is_noticed_before_it_is_used(faulty: Any) -> None:
    """The loop has not run since the server closed, so that only the system can tell."""
    closed = threading.Event()

    def talk(line: Any) -> None:
        line.await_request()
        line.send(OK)
        line._connection.shutdown(socket.SHUT_WR)
        closed.set()

    async def ask() -> None:
        async with AsyncClient(f"http://{faulty(talk)}", **MODEL, retries=ONCE) as client:
            for _ in range(3):
                await client.predict(b"x", timeout=20)
                assert closed.wait(20)
                closed.clear()

    asyncio.run(ask())


def test_a_kept_connection_that_ends_under_a_request_costs_an_attempt(faulty: Any) -> None:
    """The server may have run the model: whether it is asked again is up to the retries."""

    def talk(line: Any) -> None:
        line.await_request()
        line.send(OK)
        line.await_request()

    with Client(f"http://{faulty(talk)}", **MODEL) as client:
        assert client.predict(b"x", timeout=20).retries == ()
        again = client.predict(b"x", timeout=20)
        assert [retry.kind for retry in again.retries] == ["unavailable"]
    with Client(f"http://{faulty(talk)}", **MODEL, retries=ONCE) as client:
        client.predict(b"x", timeout=20)
        with pytest.raises(Unavailable, match="closed the connection without an answer"):
            client.predict(b"x", timeout=20)


def test_a_refusal_is_read_although_the_connection_is_reset_behind_it(faulty: Any) -> None:
    refusal = b'{"error": "too large"}'
    head = b"HTTP/1.1 413 No\r\nContent-Length: %d\r\n\r\n" % len(refusal)

    def talk(line: Any) -> None:
        line.await_bytes()
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n" + head + refusal)
        line.drop()

    with Client(f"http://{faulty(talk)}", **MODEL, retries=ONCE) as client:
        for size in (3, 20_000_000) * 5:
            with pytest.raises(InputTooLarge, match="too large"):
                client.predict(bytes(size), timeout=20)


async def test_a_call_that_is_cancelled_leaves_no_connection(monkeypatch: Any) -> None:
    monkeypatch.setattr(http1_pool, "MOST_CONNECTIONS", 2)
    asked: list[bytes] = []
    ended: asyncio.Queue[bytes] = asyncio.Queue()
    may_answer = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        if may_answer.is_set():
            writer.write(OK)
        else:
            await ended.put(await reader.read())

    async with (
        serving(talk) as address,
        AsyncClient(f"http://{address}", **MODEL, retries=ONCE) as client,
    ):
        calls = [asyncio.ensure_future(client.predict(b"x", timeout=20)) for _ in range(5)]
        await until(lambda: len(asked) == 2)
        with pytest.raises(DeadlineExceeded, match="waiting for one of"):
            await client.predict(b"x", timeout=0.2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert all(call.cancelled() for call in calls)
        assert await ended.get() == await ended.get() == b""
        may_answer.set()
        assert (await client.predict(b"x", timeout=20)).label == "sorrel"


async def test_who_waits_for_a_connection_gets_it_in_the_order_of_the_deadlines(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(http1_pool, "MOST_CONNECTIONS", 1)
    left: list[int] = []
    may_answer = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await read_request(reader):
            found = re.search(rb"x-request-timeout-ms: (\d+)", head)
            assert found
            left.append(int(found[1]) // 10_000)
            await may_answer.wait()
            writer.write(OK)

    async with serving(talk) as address, AsyncClient(f"http://{address}", **MODEL) as client:
        calls = [asyncio.ensure_future(client.predict(b"x", timeout=95))]
        await until(lambda: left)
        calls += [
            asyncio.ensure_future(client.predict(b"x", timeout=timeout))
            for timeout in (85, 35, 65, 45)
        ]
        await until(lambda: len(pool_of(client)._waiting) == 4)
        calls[2].cancel()
        may_answer.set()
        await asyncio.gather(*calls, return_exceptions=True)
    assert left == [9, 4, 6, 8]


async def test_who_waited_never_gets_bytes_that_came_after_the_answer_before(
    monkeypatch: Any,
) -> None:
    """A connection that goes from one call to the next at once is looked at, too."""
    monkeypatch.setattr(http1_pool, "MOST_CONNECTIONS", 1)
    writers: list[asyncio.StreamWriter] = []
    may_answer = asyncio.Event()
    ask = Http1Connection.ask

    async def ask_and_hear_more(self: Http1Connection, *args: Any) -> None:
        await ask(self, *args)
        if len(writers) == 1:
            writers[0].write(OK.replace(b"sorrel", b"maimed"))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await read_request(reader):
            await may_answer.wait()
            writer.write(OK)

    monkeypatch.setattr(Http1Connection, "ask", ask_and_hear_more)
    async with serving(talk) as address, AsyncClient(f"http://{address}", **MODEL) as client:
        calls = [asyncio.ensure_future(client.predict(b"x", timeout=20)) for _ in range(2)]
        await until(lambda: writers and pool_of(client)._waiting)
        may_answer.set()
        assert [answer.label for answer in await asyncio.gather(*calls)] == ["sorrel"] * 2
    assert len(writers) == 2


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    """They would be taken for the answer to the next request."""
    server = Counting()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        await read_request(reader)
        writer.write(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read()

    async with serving(talk) as address, AsyncClient(f"http://{address}", **MODEL) as client:
        for _ in range(3):
            assert (await client.predict(b"x", timeout=20)).retries == ()
    assert server.connections == 3


async def test_closing_the_client_ends_its_calls_and_closes_its_connections() -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()

    async with serving(talk) as address:
        client = AsyncClient(f"http://{address}", **MODEL, retries=ONCE)
        call = asyncio.ensure_future(client.predict(b"x", timeout=20))
        await asked.wait()
        found = pool_of(client)._open
        assert len(found) == 1
        await client.close()
        assert not found
        with pytest.raises(Unavailable, match="this client"):
            await call
        with pytest.raises(UsageError, match="this client is closed"):
            await client.predict(b"x", timeout=20)


async def test_a_head_without_an_end_is_named_and_not_asked_for_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-More: of the same\r\n" * 1000)
            await writer.drain()

    async with serving(talk) as address, AsyncClient(f"http://{address}", **MODEL) as client:
        with pytest.raises(InferenceFailed, match="is not HTTP: the head"):
            await client.predict(b"x", timeout=20)


def test_an_address_of_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(65536))
            connection.sendall(OK)

    with listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        with Client(f"http://[::1]:{port}", **MODEL, retries=ONCE) as client:
            assert client.predict(b"x", timeout=20).label == "sorrel"
        thread.join(10)
    assert f"\r\nhost: [::1]:{port}\r\n".encode() in heard[0]


async def test_a_proxy_gets_the_whole_address_and_the_credentials(monkeypatch: Any) -> None:
    proxy = Counting()
    async with serving(proxy) as address:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{address}")
        async with AsyncClient("http://line7.invalid:80/a%20b", **MODEL) as client:
            await client.predict(b"x", timeout=20)
    (head,) = proxy.heads
    assert head.startswith(b"POST http://line7.invalid/a%20b/v1/models/m:predict HTTP/1.1\r\n")
    assert b"\r\nhost: line7.invalid\r\n" in head
    assert b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in head


class Certificates:
    """An authority's certificate in a file, and TLS contexts of servers."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def server(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@LOOPS
async def test_a_connection_with_tls_is_kept(certificates: Certificates) -> None:
    server, tls = Counting(), Tls(ca=certificates.ca)
    secure = certificates.server("127.0.0.1")
    async with (
        serving(server, ssl=secure) as address,
        AsyncClient(f"https://{address}", **MODEL, tls=tls, retries=ONCE) as client,
    ):
        for size in (1, 3_000_000, 1):
            assert (await client.predict(bytes(size), timeout=20)).label == "sorrel"
    assert (server.connections, len(server.heads)) == (1, 3)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_tls_in_the_tunnel_of_a_proxy(
    certificates: Certificates, monkeypatch: Any, scheme: str
) -> None:
    """The proxy may want TLS as well; the system's authorities answer for that."""
    server, asked = Counting(), list[bytes]()

    async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        behind = await asyncio.open_connection(*secure.split(":"))
        writer.write(b"HTTP/1.0 200 Connection established\r\n\r\n")
        await asyncio.gather(pour(reader, behind[1]), pour(behind[0], writer))

    context = certificates.server("127.0.0.1") if scheme == "https" else None
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    async with (
        serving(server, ssl=certificates.server("line7.invalid")) as secure,
        serving(forward, ssl=context) as proxy,
    ):
        monkeypatch.setenv("https_proxy", f"{scheme}://me:p%40ss@{proxy}")
        tls = Tls(ca=certificates.ca)
        async with AsyncClient("https://line7.invalid", **MODEL, tls=tls, retries=ONCE) as client:
            for size in (1, 500_000):
                assert (await client.predict(bytes(size), timeout=20)).label == "sorrel"
    assert asked[0].startswith(b"CONNECT line7.invalid:443 HTTP/1.1\r\nHost: line7.invalid:443\r\n")
    assert asked[0].count(b"Proxy-Authorization: Basic bWU6cEBzcw==") == len(asked) == 1
    assert b"Proxy-Authorization" not in b"".join(server.heads)


def test_a_name_that_no_header_can_hold_is_named() -> None:
    from mlserve.client.http import _written

    with pytest.raises(UsageError, match="x-a cannot hold"):
        _written({"x-a": "b\r\nx-c: d"})
    with pytest.raises(UsageError, match="x-a cannot hold"):
        _written({"x-a": "b\0"})


def test_an_early_error_ends_no_other_call(faulty: Any, caplog: Any) -> None:
    """Every one of many connections is reset at some moment; all calls end with their error."""

    def talk(line: Any) -> None:
        line.await_bytes()
        line.drop()

    async def ask() -> list[Any]:
        async with AsyncClient(f"http://{faulty(talk)}", **MODEL, retries=ONCE) as client:
            calls = [client.predict(bytes(5_000_000), timeout=20) for _ in range(20)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert not pool_of(client)._open
            return found

    assert all(isinstance(end, Unavailable) for end in asyncio.run(ask()))
    assert not caplog.records  # asyncio warns of a write on a lost connection
