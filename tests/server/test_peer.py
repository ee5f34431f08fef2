"""What the kernel tells of a client, while nothing is read from its connection."""

from __future__ import annotations

import socket
import struct
import time
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterator

import pytest

from mlserve.server.peer import UNKNOWN_PEER, Peer
from mlserve.testing.processes import wait_until

STEP = 0.02
"""Seconds, more than a step of the kernel's clock."""
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A client's end of a connection, and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        with client, listener.accept()[0] as server:
            yield client, server


def break_off(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


LEAVE = [socket.socket.close, lambda client: client.shutdown(socket.SHUT_WR), break_off]


@pytest.mark.parametrize("leave", LEAVE)
def test_a_client_hangs_up_behind_what_it_has_sent(
    ends: Ends, leave: Callable[[socket.socket], object]
) -> None:
    client, server = ends
    peer = Peer(TransportSocket(server))
    client.sendall(b"x" * 100_000)
    assert not peer.has_hung_up()
    leave(client)
    wait_until(peer.has_hung_up)


def test_a_connection_that_was_closed_here_has_no_client(ends: Ends) -> None:
    _, server = ends
    peer = Peer(TransportSocket(server))
    server.close()
    assert peer.has_hung_up()
    assert peer.waited() == 0.0


def test_how_long_ago_the_last_bytes_came(ends: Ends) -> None:
    client, server = ends
    peer = Peer(TransportSocket(server))
    for _ in range(2):
        sent = time.monotonic()
        client.sendall(b"x")
        assert server.recv(1) == b"x"  # to read is not to receive
        wait_until(lambda: peer.waited() > 0.2)
        assert peer.waited() < time.monotonic() - sent + STEP
        assert time.monotonic() - sent > 0.2 - STEP


def test_nothing_is_known_of_a_unix_socket_or_of_no_connection() -> None:
    client, server = socket.socketpair()
    with client, server:
        peer = Peer(TransportSocket(server))
        client.close()
        for each in (peer, UNKNOWN_PEER):
            assert not each.has_hung_up()
            assert each.waited() == 0.0
