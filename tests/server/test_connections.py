"""Connections that say nothing, too little or nonsense, and more of them than there may be."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.tensors import DType

pytestmark = pytest.mark.slow

PATH = "/v1/models/m:predict"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
BODY = json.dumps({"inputs": ["x"]})
GOOD = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}"
TIMEOUT = 0.5


def slow_request(seconds: float) -> str:
    body = json.dumps({"signature_name": "slow", "inputs": [seconds]})
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, serve_echo: Callable[..., Any]
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("connections")
    flags = f"--header-timeout={TIMEOUT}", "--max-connections=8", "--threads=8"
    with serve_echo(folder, *flags) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Opens a connection to `host:port`, and sends it a text."""
    with ExitStack() as stack:

        def open_one(address: str, text: str = "") -> socket.socket:
            host, port = address.rsplit(":", 1)
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            client.sendall(text.encode())
            return client

        yield open_one


def everything_from(client: socket.socket) -> bytes:
    """What the server says until it closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def is_good(client: socket.socket) -> bool:
    """Whether the next response is a 200; it is read whole."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        part = client.recv(1)
        assert part, heard
        heard += part
    left = int(heard.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while left:
        left -= len(client.recv(left))
    return heard.startswith(b"HTTP/1.1 200 ")


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


def answers(server: Any) -> bool:
    response = httpx.post(f"http://{server.rest}{PATH}", content=BODY, timeout=20)
    return response.status_code == 200


def is_quiet(server: Any) -> bool:
    """Whether the log holds nothing of what strangers did to the connections."""
    told = (line for line in server.log().splitlines() if " INFO " not in line)
    assert not [line for line in told if " more failed in the last " not in line]
    return True


@pytest.mark.parametrize("text", ["P", HEAD, HEAD + "X-A: b\r\n"])
def test_a_head_that_does_not_end(server: Any, connect: Any, text: str) -> None:
    began = time.monotonic()
    answer = everything_from(connect(server.rest, text))
    assert time.monotonic() - began >= TIMEOUT - 0.1
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert b"0.5 s (--header-timeout)" in answer
    assert answers(server)
    assert is_quiet(server)


def test_a_byte_now_and_then_does_not_help(server: Any, connect: Any, wait: Any) -> None:
    client = connect(server.rest, HEAD)

    def was_refused() -> bool:
        try:
            client.sendall(b"X")
        except OSError:
            return True
        return has_heard(client)

    wait(was_refused)
    assert answers(server)


def test_a_connection_that_says_nothing(server: Any, connect: Any) -> None:
    assert everything_from(connect(server.rest)) == b""


def test_the_second_head_of_a_connection(server: Any, connect: Any) -> None:
    client = connect(server.rest, GOOD)
    assert is_good(client)
    client.sendall(HEAD.encode())
    assert everything_from(client).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_waits_after_its_request_is_kept(
    server: Any, connect: Any, wait: Any
) -> None:
    """As long as a client's pool keeps it, that is; a connection beside it shows that time goes."""
    kept, silent = connect(server.rest, GOOD), connect(server.rest)
    assert is_good(kept)
    assert everything_from(silent) == b""
    kept.sendall(GOOD.encode())
    assert is_good(kept)


def test_two_requests_at_once(server: Any, connect: Any, wait: Any) -> None:
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
    """The connection is good for one more request, and is told nothing that it did not ask."""
    head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
    client = connect(server.rest, head)
    assert not is_good(client)
    client.sendall(b"}" + GOOD.encode())
    assert is_good(client)
    client = connect(server.rest, head)
    assert not is_good(client)
    client.sendall(b"}")
    assert everything_from(client) == b""


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
    assert answers(server)
    assert is_quiet(server)


def test_those_that_wait_give_way_the_longest_waiting_first(server: Any, connect: Any) -> None:
    waiting = []
    for _ in range(8):
        waiting.append(connect(server.rest, GOOD))
        assert is_good(waiting[-1])
    assert is_good(connect(server.rest, GOOD))
    assert everything_from(waiting[0]) == b""
    assert all(is_open(client) for client in waiting[1:])
    assert is_quiet(server)


def test_bodies_that_do_not_come_take_no_place_for_long(server: Any, connect: Any) -> None:
    head = f"{HEAD}X-Request-Timeout-Ms: 600000\r\nContent-Length: 99\r\n\r\n{{"
    slow = []
    for _ in range(9):
        slow.append(connect(server.rest, head))
        assert answers(server)
    first = everything_from(slow[0])
    assert first.startswith(b"HTTP/1.1 503 ")
    assert b"the body came too slowly for 8 connections (--max-connections)" in first
    assert is_open(slow[-1])
    assert is_quiet(server)


def test_one_too_many_is_told_so_when_all_are_at_work(server: Any, connect: Any, wait: Any) -> None:
    busy = [connect(server.rest, slow_request(1.5)) for _ in range(8)]
    refused = wait(lambda: _refusal(connect, server))
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b"\r\nConnection: close\r\n" in refused
    assert b"8 connections (--max-connections), all at work" in refused
    assert all(map(is_good, busy))
    assert answers(server)


def test_grpc_refuses_one_too_many_at_once(
    server: Any, connect: Any, predict_on: Any, request_of: Any, wait: Any
) -> None:
    """gRPC's own word for it; a connection that never says anything ends after the same time."""
    request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
    idle = [connect(server.grpc) for _ in range(8)]
    error = wait(lambda: predict_on(server, request, timeout=5).exception())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert wait(lambda: not any(is_closed_after_greeting(client) is False for client in idle))
    assert wait(lambda: predict_on(server, request, timeout=5).exception() is None)
    assert is_quiet(server)


def test_idle_and_slow_connections_by_the_hundred(
    launch: Any, model: Any, connect: Any, wait: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(7)
    server = launch()
    wait(server.ports)
    wait(server.is_available)
    request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
    for _ in range(200):
        connect(server.rest)
        connect(server.grpc)
    slow = [connect(server.rest, HEAD) for _ in range(50)]
    for _ in range(5):
        for client in slow:
            client.sendall(b"X-A: b\r\n")
        assert answers(server)
        assert predict_on(server, request).result()
    assert is_quiet(server)


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


PIPELINED = "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"


def statuses(answer: bytes) -> list[int]:
    """The status codes of all responses that these bytes hold."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "Host: y\r\n",
        "A: b\r\n c\r\n",
        "A: \0\r\n",
        "A: b\nContent-Length: 5\r\n",
    ],
)
def test_heads_that_two_readers_may_not_read_alike(server: Any, connect: Any, headers: str) -> None:
    answer = everything_from(connect(server.rest, f"{HEAD}{headers}\r\n0\r\n\r\n{PIPELINED}"))
    assert statuses(answer) in ([400], [501])
    assert answers(server)
    assert is_quiet(server)


@pytest.mark.parametrize(
    "head",
    [
        "GET /v2 HTTP/1.1\r\n\r\n",
        "GET /v2\r\n\r\n",
        "GET /v2 HTTP/0.9\r\n\r\n",
        "GET /v2 HTTP/2.0\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        f"{CHUNKED}xyz\r\n",
        f"{CHUNKED}ffffffffffffffffff\r\n",
    ],
)
def test_requests_that_are_none(server: Any, connect: Any, head: str) -> None:
    assert statuses(everything_from(connect(server.rest, head))) == [400]
    assert is_quiet(server)


@pytest.mark.parametrize(
    "text",
    [
        "GET /" + "a" * 70_000,
        "GET /" + "a" * 70_000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + "A: " + "b" * 70_000,
        HEAD + "A: b\r\n" * 20_000 + "\r\n",
        CHUNKED + "1;" + "x" * 400_000,
        CHUNKED + "0\r\nA: " + "b" * 400_000,
        CHUNKED + "0\r\n" + "A: b\r\n" * 70_000,
        "\r\n" * 40_000,
    ],
)
def test_what_does_not_end_is_bounded(server: Any, connect: Any, text: str) -> None:
    client = connect(server.rest)
    with suppress(OSError):
        client.sendall(text.encode())
    assert statuses(everything_from(client)) in ([431], [])  # it may see the reset only
    assert answers(server)
    assert is_quiet(server)


def test_headers_after_a_body_are_no_headers_of_the_request(server: Any, connect: Any) -> None:
    body = f"{len(BODY):x}\r\n{BODY}\r\n0\r\nHost: y\r\nX-Request-Timeout-Ms: no\r\n\r\n"
    assert is_good(connect(server.rest, CHUNKED + body))


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("pieces", [1, 1000])
def test_a_body_that_comes_with_an_offer_of_another_protocol(
    server: Any, connect: Any, protocol: str, pieces: int
) -> None:
    """As clients of Java send it at first; what follows the body is a request of its own."""
    offer = f"{HEAD}Connection: Upgrade\r\nUpgrade: {protocol}\r\n"
    sized = f"{offer}Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    chunked = f"{offer}Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    text = sized + chunked + offer.replace(f"POST {PATH}", "GET /v2") + "\r\n" + GOOD
    client = connect(server.rest)
    for start in range(0, len(text), max(1, len(text) // pieces)):
        client.sendall(text[start : start + max(1, len(text) // pieces)].encode())
    assert [is_good(client) for _ in range(4)] == [True] * 4
    assert is_quiet(server)


def test_nonsense_after_a_request_is_told_after_its_answer(server: Any, connect: Any) -> None:
    for nonsense in ("\0", "GET /v2 HTTP/1.1\r\n\r\n", f"{CHUNKED}xyz\r\n"):
        client = connect(server.rest, slow_request(0.2) + PIPELINED + nonsense)
        assert statuses(everything_from(client)) == [200, 200, 400]
    assert is_quiet(server)


def test_no_more_than_a_few_requests_are_taken_ahead(server: Any, connect: Any) -> None:
    client = connect(server.rest, slow_request(0.2) + PIPELINED * 1000)
    told = statuses(everything_from(client))
    assert told[-1] == 429
    assert set(told[:-1]) == {200}
    assert is_quiet(server)


def test_a_request_that_is_taken_ahead_waits_for_its_body(server: Any, connect: Any) -> None:
    client = connect(server.rest, slow_request(0.2) + GOOD[:-1])
    assert is_good(client)
    client.sendall(GOOD[-1:].encode())
    assert is_good(client)
    client.sendall((slow_request(0.2) + HEAD).encode())
    assert is_good(client)
    assert everything_from(client).startswith(b"HTTP/1.1 408 ")
