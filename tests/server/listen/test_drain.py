"""A server that is told to stop while clients ask: what it has accepted it answers.

What "accepted" and "lost" mean is defined in `tests.harness.load`. The model's own journal is the
witness: a request that was run and whose client has no answer is lost, whatever the client saw.
"""

from __future__ import annotations

import json
import select
import signal
import socket
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from tests.harness.load import Load

pytestmark = pytest.mark.server

IMAGE = np.array([b"x"], object), DType.BYTES
BODY = json.dumps({"inputs": ["x"]}).encode()


def connect(server: Any) -> socket.socket:
    host, _, port = server.rest.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head(length: int) -> bytes:
    lines = ("POST /v1/models/m:predict HTTP/1.1", "Host: t", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def read_to_end(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def slow(request_of: Any, seconds: float) -> Any:
    return request_of("slow", seconds=(np.array([seconds], np.float32), DType.FLOAT32))


@pytest.mark.parametrize("round_", range(3))
def test_a_drain_under_load_loses_no_accepted_request(model: Any, start: Any, round_: int) -> None:
    model.put(1, delay=0.01)
    server = start("--threads", "2")
    load = Load(server.grpc, server.rest, "m")
    before = len(model.runs())
    load.start()
    try:
        wait_until(lambda: load.answered > 100)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
    finally:
        load.stop()
    assert load.lost == []
    assert load.refused
    ran = model.runs()[before:]
    assert (ran.pop(), len(ran)) == ("close", load.answered)
    assert "ERROR" not in server.log()
    assert "Traceback" not in server.log()


def test_a_request_whose_body_is_on_its_way_is_answered(model: Any, start: Any) -> None:
    """Requests behind it are refused meanwhile, and their connections are closed."""
    model.put(1)
    server = start("--drain-timeout", "60")
    with connect(server) as connection, httpx.Client() as other:
        url = f"http://{server.rest}/v1/models/m:predict"
        assert other.post(url, content=BODY).status_code == 200
        connection.sendall(head(len(BODY)) + BODY[:5])
        # The server has read the head once it takes a later request of another connection.
        assert other.post(url, content=BODY).headers.get("connection") != "close"
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: 1 requests to finish" in server.log())
        refused = other.post(url, content=BODY)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        live = other.get(f"http://{server.rest}/v2/health/live")
        assert (live.status_code, live.headers["connection"]) == (200, "close")
        connection.sendall(BODY[5:])
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b'{"outputs": ["sorrel"]}')
    assert server.exit_code() == 0


def test_an_answer_that_is_on_its_way_arrives_whole(
    model: Any, start: Any, request_of: Any, predict_on: Any
) -> None:
    """The client reads on only when the server has begun to stop."""
    model.put(1)
    server = start()
    values = list(range(1_500_000))
    body = json.dumps(
        {"signature_name": f"identity_{DType.INT32.label}", "inputs": [values]}
    ).encode()
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(head(len(body)) + body)
        wait_until(lambda: select.select([connection], [], [], 0)[0])
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: " in server.log())
        answer = read_to_end(connection)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"] == [values]
    assert server.exit_code() == 0


def test_a_connection_that_the_loop_has_not_seen_gets_an_answer(model: Any, start: Any) -> None:
    """The server is stopped (SIGSTOP) while clients connect, and then told to end."""
    model.put(1)
    server = start()
    server.process.send_signal(signal.SIGSTOP)
    waiting = [connect(server) for _ in range(20)]
    for connection in waiting:
        connection.sendall(head(len(BODY)) + BODY)
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGCONT)
    answers = [read_to_end(connection) for connection in waiting]
    for connection in waiting:
        connection.close()
    assert {answer.partition(b"\r\n")[0] for answer in answers} <= {
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 503 Service Unavailable",
    }
    assert server.exit_code() == 0


def test_a_client_that_is_held_up_before_it_sends_gets_an_answer(model: Any, start: Any) -> None:
    """One that has just connected, and one that has just been answered."""
    model.put(1)
    server = start()
    with connect(server) as new, connect(server) as kept:
        kept.sendall(head(len(BODY)) + BODY)
        answer = b""
        while not answer.endswith(b"}"):
            answer += kept.recv(65536)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: " in server.log())
        assert not select.select([new, kept], [], [], 0.4)[0], "it has hung up"
        for connection in (new, kept):
            connection.sendall(head(len(BODY)) + BODY)
            assert read_to_end(connection).startswith(b"HTTP/1.1 503 ")
    assert server.exit_code() == 0


def test_what_is_idle_does_not_hold_it_up(
    model: Any, start: Any, channel_to: Any, predict_on: Any, request_of: Any
) -> None:
    """Kept connections of both ports, and one that has sent half a head."""
    model.put(1)
    server = start("--drain-timeout", "60")
    predict_on(server, request_of(image=IMAGE)).result()
    with httpx.Client() as kept, connect(server) as silent, connect(server) as halting:
        kept.get(f"http://{server.rest}/v2/health/live")
        halting.sendall(head(1)[:20])
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert silent.recv(1) == b""


def test_a_client_that_left_does_not_hold_up_the_answer_of_others(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    """Its work runs on, as it cannot be interrupted, and the drain waits for it."""
    model.put(1)
    server = start("--threads", "1", "--drain-timeout", "60")
    left = predict_on(server, slow(request_of, 1))
    wait_until(lambda: "slow" in model.runs())
    queued = predict_on(server, request_of("top_k", image=IMAGE))
    left.cancel()
    server.process.send_signal(signal.SIGTERM)
    # The queued one may also have come after the signal.
    assert queued.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    assert server.exit_code() == 0
    assert model.runs()[-1] == "close"


def test_a_refused_client_that_is_still_sending_can_read_why(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    """Its connection is not reset under it."""
    model.put(1)
    server = start("--drain-timeout", "60")
    running = predict_on(server, slow(request_of, 60), timeout=60)
    wait_until(lambda: "slow" in model.runs())
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping: 1 requests to finish" in server.log())
    body = b'{"inputs": ["' + b"x" * 10_000_000 + b'"]}'
    with connect(server) as connection:
        connection.sendall(head(len(body)) + body)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    model.release()
    assert running.result().outputs["done"].float_val
    assert server.exit_code() == 0


def test_a_client_that_watches_the_health_holds_up_no_stop(
    model: Any, start: Any, channel_to: Any
) -> None:
    model.put(1)
    server = start("--drain-timeout", "100")
    watch = channel_to(server).unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    server.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as ended:
        next(watch)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.exit_code() == 0  # within 20 s, and not after 100
