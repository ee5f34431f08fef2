"""A server that stood still: what it was asked meanwhile is as old as it is.

It finds all of that at once. Clients who have hung up by then have no need of an answer, and the
deadlines of the others have come nearer.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest

from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.raw_http import everything_from
from tests.harness.raw_http2 import RawHttp2, message
from tests.harness.server import MODEL, EchoServer, serving

pytestmark = pytest.mark.server

CLIENTS, SLEEP = 60, 0.05
BODY = json.dumps({"signature_name": "slow", "inputs": [SLEEP]}).encode()
STILL = 1.2
"""Seconds that the server stands still, at least, where its callers' time counts."""
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    with serving(tmp_path_factory.mktemp("standstill"), "--threads=2") as server:
        assert server.post(json.loads(BODY)).status_code == 200
        yield server


def ask(seconds: float) -> bytes:
    """A request over REST that may take so long."""
    head = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"X-Request-Timeout-Ms: {1000 * seconds:.0f}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def question() -> bytes:
    """The same over gRPC."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL, "slow"
    seconds = from_array(np.array([SLEEP], np.float32), DType.FLOAT32)
    request.inputs["seconds"].CopyFrom(seconds)
    return message(request.SerializeToString())


@contextmanager
def stopped(server: EchoServer) -> Iterator[None]:
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def runs(server: EchoServer) -> float:
    """How often the model has run."""
    page = httpx.get(f"http://{server.rest}/metrics").text
    name = r"mlserve_stage_duration_seconds_count\{[^}]*stage=\"run\"[^}]*\}"
    return sum(float(count) for count in re.findall(rf"^{name} (\S+)$", page, re.MULTILINE))


def connected(server: EchoServer) -> socket.socket:
    host, port = server.rest.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def close(client: socket.socket) -> None:
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def break_off(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


WAYS = pytest.mark.parametrize("leave", [close, half_close, break_off])
Leave = Callable[[socket.socket], None]


@WAYS
def test_clients_who_have_hung_up_over_rest(server: EchoServer, leave: Leave) -> None:
    before = runs(server)
    with ExitStack() as open_ones:
        with stopped(server):
            clients = [open_ones.enter_context(connected(server)) for _ in range(CLIENTS)]
            for client in clients:
                client.sendall(ask(60))
                leave(client)
        assert server.post(json.loads(BODY)).status_code == 200
        wait_until(lambda: idle(server))
    assert runs(server) == before + 1


@WAYS
def test_clients_who_have_hung_up_over_grpc(server: EchoServer, leave: Leave) -> None:
    before = runs(server)
    with ExitStack() as open_ones:
        clients = [open_ones.enter_context(RawHttp2(server.grpc)) for _ in range(CLIENTS)]
        for client in clients:
            client.call(1, "/grpc.health.v1.Health/Check", data=message(b""))
            assert client.answer(1).status == 0
        with stopped(server):
            for client in clients:
                client.call(3, PREDICT, [("grpc-timeout", "60S")], data=question())
                leave(client.socket)
        assert server.post(json.loads(BODY)).status_code == 200
        wait_until(lambda: idle(server))
    assert runs(server) == before + 1


def test_a_deadline_counts_from_when_the_request_came(server: EchoServer) -> None:
    """Half of the clients still wait when their second is over, and half have more time."""
    before = runs(server)
    seconds = [1, 60] * 4
    with ExitStack() as open_ones:
        rest = [open_ones.enter_context(connected(server)) for _ in seconds]
        grpc = [open_ones.enter_context(RawHttp2(server.grpc)) for _ in seconds]
        for caller in grpc:
            caller.call(1, "/grpc.health.v1.Health/Check", data=message(b""))
            assert caller.answer(1).status == 0
        with stopped(server):
            for client, caller, each in zip(rest, grpc, seconds, strict=True):
                client.sendall(ask(each))
                caller.call(3, PREDICT, [("grpc-timeout", f"{each}S")], data=question())
            sent = time.monotonic()
            wait_until(lambda: time.monotonic() - sent > STILL)
        answers = [everything_from(client) for client in rest]
        assert [answer[9:12] for answer in answers] == [b"504", b"200"] * 4
        assert [caller.answer(3).status for caller in grpc] == [4, 0] * 4
        wait_until(lambda: idle(server))
    assert runs(server) == before + 8


def idle(server: EchoServer) -> bool:
    """Whether nothing runs or waits."""
    page = httpx.get(f"http://{server.rest}/metrics").text
    found = re.findall(r"^mlserve_requests_(?:running|waiting) (\S+)$", page, re.MULTILINE)
    assert len(found) == 2
    return set(map(float, found)) == {0.0}
