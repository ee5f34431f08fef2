"""Requests on one connection: what is none, what never ends, what is sent ahead of the answer."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from tests.harness.raw_http import everything_from, is_good, statuses

pytestmark = pytest.mark.server

PATH = "/v1/models/m:predict"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
BODY = json.dumps({"inputs": ["x"]})
GOOD = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}"
PIPELINED = "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"


def slow_request(seconds: float) -> str:
    body = json.dumps({"signature_name": "slow", "inputs": [seconds]})
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}"


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
    assert server.answers()
    assert server.is_quiet()


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
    assert server.is_quiet()


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
    assert server.answers()
    assert server.is_quiet()


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
    assert server.is_quiet()


def test_nonsense_after_a_request_is_told_after_its_answer(server: Any, connect: Any) -> None:
    for nonsense in ("\0", "GET /v2 HTTP/1.1\r\n\r\n", f"{CHUNKED}xyz\r\n"):
        client = connect(server.rest, slow_request(0.2) + PIPELINED + nonsense)
        assert statuses(everything_from(client)) == [200, 200, 400]
    assert server.is_quiet()


def test_no_more_than_a_few_requests_are_taken_ahead(server: Any, connect: Any) -> None:
    client = connect(server.rest, slow_request(0.2) + PIPELINED * 1000)
    told = statuses(everything_from(client))
    assert told[-1] == 429
    assert set(told[:-1]) == {200}
    assert server.is_quiet()


def test_a_request_that_is_taken_ahead_waits_for_its_body(server: Any, connect: Any) -> None:
    client = connect(server.rest, slow_request(0.2) + GOOD[:-1])
    assert is_good(client)
    client.sendall(GOOD[-1:].encode())
    assert is_good(client)
    client.sendall((slow_request(0.2) + HEAD).encode())
    assert is_good(client)
    assert everything_from(client).startswith(b"HTTP/1.1 408 ")
