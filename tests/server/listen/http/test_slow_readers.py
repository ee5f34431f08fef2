"""Connections whose clients read nothing, or send no body: in this process, with real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mlserve.server.listen import http_connection
from mlserve.server.listen.drain import outgoing_bytes
from mlserve.server.listen.http_connection import HttpConnection
from mlserve.server.listen.http_connections import HttpConnections
from mlserve.server.message import Request, Response

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
LARGE = 16 * 2**20
"""Bytes of an answer beyond what the system's buffers of a connection hold."""


async def large(request: Request) -> None:
    await request.respond(Response(bytes(LARGE)), lingers=False)


async def unread(request: Request) -> None:
    await request.respond(Response(b"no", 404), lingers=False)


async def echo(request: Request) -> None:
    body = b""
    while part := await request.next_part():
        body += part
    await request.respond(Response(body), lingers=False)


@asynccontextmanager
async def port_of(
    serve: Callable[[Request], Awaitable[None]], most: int = 8
) -> AsyncIterator[tuple[HttpConnections, tuple[str, int]]]:
    async def answer(request: Request) -> None:
        await serve(request)

    port = HttpConnections(most, 5.0, answer)
    make = lambda: HttpConnection(port)  # noqa: E731
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield port, server.sockets[0].getsockname()
    finally:
        server.close()
        await port.end(0.0)


def silent_client(address: tuple[str, int], text: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address)
    client.sendall(text)
    return client


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.005)


async def exchanged(address: tuple[str, int], text: bytes) -> bytes:
    """Return all that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(text)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "text", [GET + b"\r\n", (GET + b"\r\n") * 2, GET + b"Connection: close\r\n\r\n"]
)
def test_a_client_that_does_not_read_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(http_connection, "_KEEP_ALIVE", 0.05)

    async def run() -> None:
        async with port_of(large) as (port, address):
            with silent_client(address, text):
                await until(lambda: bool(port.open))
                await until(lambda: not port.open and not port.tasks)

    asyncio.run(run())


def test_a_client_that_reads_slowly_is_not() -> None:
    async def run() -> None:
        async with port_of(large) as (port, address):
            with silent_client(address, GET + b"\r\n") as client:
                await until(lambda: any(each.is_full for each in port.open))
                [connection] = port.open
                for _ in range(3):
                    connection._on_idle()
                    before = unsent(connection)
                    while unsent(connection) >= before:
                        client.recv(2**16)
                        await asyncio.sleep(0)
                connection._on_idle()
                assert connection.is_sending
                connection._on_idle()
                await until(lambda: not port.open)

    asyncio.run(run())


def unsent(connection: HttpConnection) -> int:
    return connection._transport.get_write_buffer_size() + outgoing_bytes(connection._descriptor())


def test_one_that_still_sends_gives_way_last_and_ends() -> None:
    async def run() -> None:
        async with port_of(large, most=2) as (port, address):
            with silent_client(address, GET + b"\r\n"):
                await until(lambda: any(each.is_sending for each in port.open))
                [sending] = port.open
                reader, idle = await asyncio.open_connection(*address)
                await until(lambda: len(port.waiting) == 2)
                with silent_client(address, GET + b"\r\n"):
                    assert await reader.read() == b""  # the idle one has ended
                    idle.close()
                    await until(lambda: all(each.is_sending for each in port.open))
                    assert sending in port.waiting
                    with silent_client(address, b""):
                        await until(lambda: sending not in port.open and not sending.is_sending)

    asyncio.run(run())


def test_a_body_that_was_never_asked_for_ends_the_connection() -> None:
    """Its client may leave it out: what comes next would be read as the body."""

    async def run() -> None:
        async with port_of(unread) as (_, address):
            text = POST + b"Expect: 100-continue\r\n\r\n"
            answer = await exchanged(address, text)
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.count(b"HTTP/1.1 ") == 1

    asyncio.run(run())


@pytest.mark.parametrize(("version", "told"), [(b"1.1", True), (b"1.0", False)])
def test_only_http_1_1_has_a_continue(version: bytes, told: bool) -> None:
    async def run() -> None:
        async with port_of(echo) as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            head = POST.replace(b"1.1", version)
            writer.write(head + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
            if told:
                assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            writer.write(b"abc")
            answer = await reader.read()
            writer.close()
            assert answer.endswith(b"\r\n\r\nabc")
            assert b"100 Continue" not in answer

    asyncio.run(run())
