"""The server process: its ports, its start, its signals and its exit codes."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
IMAGE = np.array([b"x"], object), DType.BYTES


def health(channel: Any) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status


def slow_request(request_of: Any, seconds: float) -> Any:
    return request_of("slow", seconds=(np.array([seconds], np.float32), DType.FLOAT32))


def test_it_listens_before_it_has_loaded(
    model: Any, launch: Any, channel_to: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1, load_delay=60)
    server = launch()
    server.wait_listening()
    wait_until(lambda: server.state(1) == "LOADING")
    answer = server.post({"inputs": ["x"]})
    assert (answer.status_code, answer.json()) == (503, {"error": "m is loading"})
    call = predict_on(server, request_of(image=IMAGE))
    assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
    assert call.details() == "m is loading"
    metadata = httpx.get(f"http://{server.rest}/v1/models/m/metadata")
    assert metadata.status_code == 503
    assert health(channel_to(server)) == NOT_SERVING
    model.release()
    wait_until(server.is_available)
    wait_until(lambda: health(channel_to(server)) == SERVING)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(
    number: int,
    model: Any,
    start: Any,
    predict_on: Any,
    request_of: Any,
    channel_to: Any,
) -> None:
    model.put(1)
    server = start("--threads", "1", "--drain-timeout", "60")
    running = predict_on(server, slow_request(request_of, 60), timeout=60)
    wait_until(lambda: "slow" in model.runs())
    queued = predict_on(server, request_of("top_k", image=IMAGE), timeout=60)
    channel = channel_to(server)
    assert health(channel) == SERVING
    server.process.send_signal(number)
    wait_until(lambda: health(channel) == NOT_SERVING)
    answer = server.post({"inputs": ["x"]})
    assert (answer.status_code, answer.json()) == (503, {"error": "the server is shutting down"})
    ready = httpx.get(f"http://{server.rest}/v2/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"error": "the server is shutting down"})
    refused = predict_on(server, request_of(image=IMAGE))
    assert refused.exception().code() is grpc.StatusCode.UNAVAILABLE
    model.release()
    assert running.result().outputs["done"].float_val
    assert queued.result().outputs["labels"].string_val
    assert server.exit_code() == 0
    assert model.runs()[-3:] == ["slow", "top_k", "close"]


def test_what_does_not_end_in_time_is_left(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1)
    server = start("--threads", "1", "--drain-timeout", "0.2")
    running = predict_on(server, slow_request(request_of, 60))
    wait_until(lambda: "slow" in model.runs())
    queued = predict_on(server, request_of("top_k", image=IMAGE))
    wait_until(
        lambda: (
            not queued.done()
            and server.post({"inputs": ["x"]}, headers={"X-Request-Timeout-Ms": "1"}).status_code
            == 504
        )
    )
    server.process.terminate()
    assert server.exit_code() == 0
    assert "stopping with 1 requests unfinished" in server.log()
    assert queued.exception().code() is grpc.StatusCode.UNAVAILABLE
    assert running.exception().code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert "top_k" not in model.runs()


def test_a_second_signal_ends_it_at_once(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1)
    server = start("--drain-timeout", "60")
    running = predict_on(server, slow_request(request_of, 60))
    wait_until(lambda: "slow" in model.runs())
    server.process.terminate()
    wait_until(lambda: "stopping: 1 requests to finish" in server.log())
    server.process.terminate()
    assert server.exit_code() == 130
    assert running.exception().code() is grpc.StatusCode.UNAVAILABLE


def test_a_signal_while_it_loads(model: Any, launch: Any) -> None:
    model.put(1, load_delay=60)
    server = launch()
    server.wait_listening()
    wait_until(lambda: server.state(1) == "LOADING")
    server.process.terminate()
    assert server.exit_code() == 0


@pytest.mark.parametrize("wrong", [("--threads", "0"), ("--max-queue", "-1"), ("--rest-port", "x")])
def test_options_that_are_refused(model: Any, launch: Any, wrong: tuple[str, str]) -> None:
    server = launch(*wrong)
    assert server.exit_code() == 2
    told = (f"error: {wrong[0]} must be", f"ERROR {wrong[0]} must be", f"argument {wrong[0]}")
    assert any(text in server.log() for text in told), server.log()


def test_a_port_that_is_none(model: Any, launch: Any) -> None:
    server = launch("--rest-port", "70000")
    assert server.exit_code() == 5
    assert "cannot listen on 127.0.0.1:70000 for REST" in server.log()


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_port_that_is_taken(model: Any, launch: Any, kind: str) -> None:
    model.put(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = launch(f"--{kind}-port", str(port))
        assert server.exit_code() == 5
    assert f"ERROR cannot listen on 127.0.0.1:{port}" in server.log()
    # the flag is not named: mlserve-model-server has it under another name
    told = {"grpc": "gRPC", "rest": "REST"}[kind]
    assert f"hint: choose another port for {told}, or stop what listens there" in server.log()


def test_two_servers_never_share_a_port(model: Any, start: Any, launch: Any) -> None:
    model.put(1)
    server = start()
    again = launch("--grpc-port", server.grpc.rpartition(":")[2])
    assert again.exit_code() == 5


def test_a_runtime_that_is_not_installed(model: Any, launch: Any) -> None:
    model.put(1, needs="no_such_runtime")
    server = launch()
    assert server.exit_code() == 3
    assert "No module named 'no_such_runtime'" in server.log()
    assert "hint: pip install -e tests/echo" in server.log()


def test_a_model_that_does_not_load(model: Any, launch: Any) -> None:
    model.put(1, fail_load="this file is damaged")
    server = launch()
    assert server.exit_code() == 5
    assert "ERROR this file is damaged" in server.log()
    assert "ERROR hint: write another echo.json" in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("prepare", "message", "hint"),
    [
        (lambda base: base.rmdir(), "cannot be read: No such file", "give the folder of the model"),
        (Path.exists, "holds no version folder", "<base path>/1/"),
        (
            lambda base: (base / "saved_model.pb").touch(),
            "holds saved_model.pb itself, not version folders",
            "<base path>/1/saved_model.pb",
        ),
        (lambda base: base.rmdir() or base.touch(), "cannot be read: Not a directory", "give the"),
    ],
)
def test_a_base_path_that_is_not_one(
    model: Any, launch: Any, prepare: Any, message: str, hint: str
) -> None:
    prepare(model.base_path)
    server = launch()
    assert server.exit_code() == 2
    assert message in server.log()
    assert hint in server.log()


def test_a_version_that_is_not_there(model: Any, launch: Any) -> None:
    model.put(1)
    model.put(2)
    server = launch("--version", "7")
    assert server.exit_code() == 2
    assert "has no version 7" in server.log()
    assert "hint: there are: 1, 2" in server.log()


def test_a_backend_that_is_not_there(model: Any, launch: Any) -> None:
    model.put(1)
    server = launch("--backend", "nope")
    assert server.exit_code() == 2
    assert "there is no backend 'nope'" in server.log()


def test_the_log_has_one_line_each(model: Any, start: Any) -> None:
    model.put(1)
    server = start()
    server.post({"inputs": ["x"]})
    lines = server.log().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ \S", line) for line in lines
    )
    assert not [line for line in lines if "predict" in line], "requests are not logged"


def test_both_ports_on_ipv6(model: Any, start: Any) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    model.put(1)
    server = start("--host", "::1")
    assert server.grpc.startswith("[::1]:")
    assert server.post({"inputs": ["x"]}).json() == {"outputs": ["sorrel"]}
