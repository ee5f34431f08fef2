"""Refusals by the head of a request: before the body is read, and the connection stays good."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.raw_http import everything_from, is_good, response_from, statuses
from tests.harness.raw_http2 import RawHttp2, message
from tests.harness.server import MODEL, EchoServer, serving

pytestmark = pytest.mark.server

PREDICT = "/tensorflow.serving.PredictionService/Predict"
PATH = f"/v1/models/{MODEL}:predict"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 600000\r\n"
HOLD = json.dumps({"signature_name": "slow", "inputs": [600]})
RESOURCE_EXHAUSTED, INVALID_ARGUMENT = 8, 3

Connect = Callable[[], socket.socket]


def sized(body: str, *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in more)
    return f"{HEAD}{lines}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server that refuses every call: its only thread is held, and nothing may wait."""
    folder = tmp_path_factory.mktemp("refusals")
    with (
        serving(folder, "--threads=1", "--max-queue=0", "--drain-timeout=0.1") as server,
        connected(server) as holding,
    ):
        holding.sendall(sized(HOLD))
        wait_until(lambda: b"\nmlserve_requests_running 1.0" in metrics(server))
        yield server


@pytest.fixture
def connect(server: EchoServer) -> Iterator[Connect]:
    with ExitStack() as clients:
        yield lambda: clients.enter_context(connected(server))
    assert " ERROR " not in server.log()


def connected(server: EchoServer) -> socket.socket:
    host, port = server.rest.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def metrics(server: EchoServer) -> bytes:
    with connected(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return everything_from(client)


def refusal_from(client: socket.socket) -> bytes:
    """Read one response whole, which has to be a refusal."""
    heard = response_from(client)
    assert heard.startswith(b"HTTP/1.1 429 "), heard
    assert b"\r\nretry-after-ms: " in heard
    assert b"\r\nx-request-id: " in heard
    return heard


def test_the_body_may_come_in_any_way(connect: Connect) -> None:
    """With the head, after the answer, in pieces, or in chunks: the next request is read right."""
    client = connect()
    whole = sized("x" * 300_000)
    client.sendall(whole)
    refusal_from(client)
    head, _, body = whole.partition(b"\r\n\r\n")
    client.sendall(head + b"\r\n\r\n")
    refusal_from(client)
    client.sendall(body[:7])
    client.sendall(body[7:] + LIVE)
    assert is_good(client)
    chunked = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    client.sendall(chunked.encode())
    refusal_from(client)
    client.sendall(b"3\r\nyou\r\n0\r\n\r\n" + LIVE)
    assert is_good(client)


def test_requests_that_are_sent_ahead_are_answered_in_turn(connect: Connect) -> None:
    client = connect()
    client.sendall(sized("{}") + LIVE + sized("{}") * 3 + LIVE)
    refusal_from(client)
    assert is_good(client)
    for _ in range(3):
        refusal_from(client)
    assert is_good(client)


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_client_that_wants_the_connection_closed_can_read_the_refusal(
    connect: Connect, pieces: int
) -> None:
    client = connect()
    request = sized("x" * 200_000, "Connection: close")
    for piece in range(pieces):
        size = len(request) // pieces
        client.sendall(request[piece * size : (piece + 1) * size])
    heard = everything_from(client)
    assert statuses(heard) == [429]
    assert b"\r\nconnection: close\r\n" in heard


def test_a_body_that_waits_to_be_asked_for_is_not(connect: Connect) -> None:
    client = connect()
    client.sendall(f"{HEAD}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode())
    heard = everything_from(client)
    assert statuses(heard) == [429]
    assert b"100 Continue" not in heard


def test_nonsense_after_a_refused_request_is_told_after_it(connect: Connect) -> None:
    client = connect()
    client.sendall(sized("{}") + b"\0")
    assert statuses(everything_from(client)) == [429, 400]


def test_refused_requests_are_counted_and_none_is_left_in_flight(
    server: EchoServer, connect: Connect
) -> None:
    def refused() -> int:
        page = metrics(server).decode()
        [line] = [
            line
            for line in page.splitlines()
            if line.startswith('mlserve_refused_total{reason="queue_full"}')
        ]
        return int(float(line.split()[1]))

    before, client = refused(), connect()
    for _ in range(10):
        client.sendall(sized("{}"))
        refusal_from(client)
    assert refused() == before + 10


@pytest.mark.parametrize("body", [None, message(b"x" * 100)])
def test_a_refused_call_is_one_block_and_a_reset(server: EchoServer, body: bytes | None) -> None:
    """The reset says NO_ERROR: the client need not send the rest (RFC 9113, section 8.1)."""
    with RawHttp2(server.grpc) as client:
        for stream in (1, 3):
            client.call(stream, PREDICT, [("grpc-timeout", "600S")], data=body)
            heard = client.answer(stream)
            assert heard.status == RESOURCE_EXHAUSTED
            assert heard.has_ended
            assert int(heard.headers["grpc-retry-pushback-ms"]) > 0
            client.listen(lambda heard=heard: heard.reset is not None)  # type: ignore[misc]
            assert heard.reset == 0
        client.call(5, "/grpc.health.v1.Health/Check", data=message(b""))
        assert client.answer(5).status == 0


def test_a_refused_call_through_the_library_of_grpc(server: EchoServer) -> None:
    request = PredictRequest()
    request.model_spec.name = MODEL
    image = from_array(np.array([b"x" * 1_000_000], dtype=object), DType.BYTES)
    request.inputs["image"].CopyFrom(image)
    with grpc.insecure_channel(server.grpc) as channel:
        method: Any = channel.unary_unary(PREDICT)
        for timeout in (600, 500, 600):
            with pytest.raises(grpc.RpcError) as refused:
                method(request.SerializeToString(), timeout=timeout)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "the queue is full" in refused.value.details()


def test_a_priority_that_does_not_exist(server: EchoServer, connect: Connect) -> None:
    said = "x-request-priority must be sheddable, default or critical, not 'high'"
    client = connect()
    client.sendall(sized("{}", "X-Request-Priority: high", "Connection: close"))
    heard = everything_from(client)
    assert statuses(heard) == [400]
    assert said in heard.decode()
    with RawHttp2(server.grpc) as raw:
        raw.call(1, PREDICT, [("x-request-priority", "high")], data=message(b""))
        answer = raw.answer(1)
        assert (answer.status, answer.message) == (INVALID_ARGUMENT, said)


def test_a_head_that_is_begun_behind_pipelined_refusals_has_its_time(tmp_path: Path) -> None:
    """A connection that no limit closes would keep a place for ever."""
    refused = f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with serving(tmp_path, "--header-timeout=0.6") as server, connected(server) as client:
        client.sendall(LIVE + refused + b"GET /v1/models/m HT")
        assert statuses(everything_from(client)) == [200, 405, 408]
