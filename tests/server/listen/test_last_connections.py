"""How a port takes in what is left when it closes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from mlserve.server.listen.drain import take_last
from mlserve.server.listen.ports import BATCH, Acceptor

MANY = 3 * BATCH


class Noted(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Noted.made += 1
        transport.close()


def test_what_waits_at_the_port_is_taken_and_what_comes_later_is_refused() -> None:
    async def close() -> None:
        acceptor = Acceptor(listener, Noted, MANY, None, None)
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(MANY)]
        await acceptor.finish(asyncio.get_running_loop().time() + 10)
        await acceptor.wait_closed()
        assert Noted.made == len(clients)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=MANY))
        address = listener.getsockname()
        asyncio.run(close())


def test_what_nobody_takes_is_not_waited_for_beyond_the_time() -> None:
    async def close() -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + 0.2
        await take_last(listener, give_up)
        assert loop.time() >= give_up

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        asyncio.run(close())
