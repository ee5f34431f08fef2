"""How a port takes in what is left when it closes."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest

from mlserve.server.listen.drain import take_last

_SO_LOCK_FILTER = 44


@pytest.mark.skipif(sys.platform != "linux", reason="sockets have filters on Linux")
def test_a_system_that_lets_nobody_filter_packets_does_not_keep_a_port_from_closing() -> None:
    """As in a container without root, on some kernels: here the socket itself refuses."""

    async def take() -> None:
        await take_last(listener, time.monotonic() + 5)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
        asyncio.run(take())
