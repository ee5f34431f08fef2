"""Connections that say nothing, too little or nonsense, and more of them than there may be."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from tests.harness.raw_http import everything_from, is_good

pytestmark = pytest.mark.server

PATH = "/v1/models/m:predict"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
BODY = json.dumps({"inputs": ["x"]})
GOOD = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}"
TIMEOUT = 0.5


def slow_request(seconds: float) -> str:
    body = json.dumps({"signature_name": "slow", "inputs": [seconds]})
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}"


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.settimeout(20)


@pytest.mark.parametrize("text", ["P", HEAD, HEAD + "X-A: b\r\n"])
def test_a_head_that_does_not_end(server: Any, connect: Any, text: str) -> None:
    began = time.monotonic()
    answer = everything_from(connect(server.rest, text))
    assert time.monotonic() - began >= TIMEOUT - 0.1
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert b"0.5 s (--header-timeout)" in answer
    assert server.answers()
    assert server.is_quiet()


def test_a_byte_now_and_then_does_not_help(server: Any, connect: Any) -> None:
    client = connect(server.rest, HEAD)

    def was_refused() -> bool:
        try:
            client.sendall(b"X")
        except OSError:
            return True
        return has_heard(client)

    wait_until(was_refused)
    assert server.answers()


def test_a_connection_that_says_nothing(server: Any, connect: Any) -> None:
    assert everything_from(connect(server.rest)) == b""


def test_the_second_head_of_a_connection(server: Any, connect: Any) -> None:
    client = connect(server.rest, GOOD)
    assert is_good(client)
    client.sendall(HEAD.encode())
    assert everything_from(client).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_waits_after_its_request_is_kept(server: Any, connect: Any) -> None:
    """As long as a client's pool keeps it, that is; a connection beside it shows that time goes."""
    kept, silent = connect(server.rest, GOOD), connect(server.rest)
    assert is_good(kept)
    assert everything_from(silent) == b""
    kept.sendall(GOOD.encode())
    assert is_good(kept)


def test_two_requests_at_once(server: Any, connect: Any) -> None:
    client = connect(server.rest, GOOD + GOOD)
    heard = b""
    while heard.count(b"sorrel") < 2:
        part = client.recv(65536)
        assert part
        heard += part
    assert heard.count(b"HTTP/1.1 200 ") == 2


def test_a_body_that_nobody_reads_and_that_does_not_end(server: Any, connect: Any) -> None:
    client = connect(
        server.rest, "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"
    )
    assert everything_from(client).startswith(b"HTTP/1.1 404 ")


def test_a_body_that_nobody_reads_and_that_ends(server: Any, connect: Any) -> None:
    """The connection is kept for the next request, as any other that waits."""
    head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
    client = connect(server.rest, head)
    assert not is_good(client)
    client.sendall(b"}" + GOOD.encode())
    assert is_good(client)
    client = connect(server.rest, head)
    assert not is_good(client)
    client.sendall(b"}")
    assert everything_from(connect(server.rest)) == b""  # the time for a head has passed
    client.sendall(GOOD.encode())
    assert is_good(client)


def test_nonsense(server: Any, connect: Any) -> None:
    for text in (
        "\0\1\2\r\n\r\n",
        "GET / HTTP/1.1\r\nA\r\n\r\n",
        "A" * 70_000,
        "\x16\x03\x01\2\0\1",
    ):
        client = connect(server.rest, text)
        answer = everything_from(client)
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 408"), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}
    upgrade = "GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert connect(server.rest, upgrade).recv(65536).startswith(b"HTTP/1.1 200 ")
    assert server.answers()
    assert server.is_quiet()


def test_those_that_wait_give_way_the_longest_waiting_first(server: Any, connect: Any) -> None:
    waiting = []
    for _ in range(8):
        waiting.append(connect(server.rest, GOOD))
        assert is_good(waiting[-1])
    assert is_good(connect(server.rest, GOOD))
    assert everything_from(waiting[0]) == b""
    assert all(is_open(client) for client in waiting[1:])
    assert server.is_quiet()


def test_bodies_that_do_not_come_take_no_place_for_long(server: Any, connect: Any) -> None:
    head = f"{HEAD}X-Request-Timeout-Ms: 600000\r\nContent-Length: 99\r\n\r\n{{"
    slow = []
    for _ in range(9):
        slow.append(connect(server.rest, head))
        assert server.answers()
    first = everything_from(slow[0])
    assert first.startswith(b"HTTP/1.1 503 ")
    assert (
        b"the body arrived too slowly while this server was at its limit of 8 connections "
        b"(--max-connections)" in first
    )
    assert is_open(slow[-1])
    assert server.is_quiet()


def test_one_too_many_is_told_so_when_all_are_at_work(start: Any, model: Any, connect: Any) -> None:
    model.put(7)
    server = start("--max-connections=8", "--threads=8")
    busy = [connect(server.rest, slow_request(60)) for _ in range(8)]
    wait_until(lambda: model.runs().count("slow") == 8)
    refused = wait_until(lambda: _refusal(connect, server))
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b"\r\nConnection: close\r\n" in refused
    assert b"8 connections (--max-connections), and all are in use" in refused
    model.release()
    assert all(map(is_good, busy))
    assert server.answers()


def test_grpc_lets_one_too_many_in_as_idle_ones_give_way(
    server: Any, connect: Any, predict_on: Any, request_of: Any
) -> None:
    """A connection that never says anything ends after the same time as on the other port."""
    request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
    idle = [connect(server.grpc) for _ in range(8)]
    assert predict_on(server, request, timeout=20).exception() is None
    assert wait_until(lambda: not any(is_closed_after_greeting(client) is False for client in idle))
    assert server.is_quiet()


def test_idle_and_slow_connections_by_the_hundred(
    launch: Any, model: Any, connect: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(7)
    server = launch()
    wait_until(server.is_available)
    request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
    for _ in range(200):
        connect(server.rest)
        connect(server.grpc)
    slow = [connect(server.rest, HEAD) for _ in range(50)]
    for _ in range(5):
        for client in slow:
            client.sendall(b"X-A: b\r\n")
        assert server.answers()
        assert predict_on(server, request).result()
    assert server.is_quiet()


def is_closed_after_greeting(client: socket.socket) -> bool:
    """Whether the server has closed, whatever it said before."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(20)
    return True


def has_heard(client: socket.socket) -> bool:
    """Whether the server has said something, or closed."""
    client.setblocking(False)
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(20)
    return True


def _refusal(connect: Any, server: Any) -> bytes:
    """What one connection more is told; empty while the others are not at work yet."""
    client = connect(server.rest, "GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
    heard: bytes = client.recv(65536)
    client.close()
    return heard if heard.startswith(b"HTTP/1.1 503 ") else b""
