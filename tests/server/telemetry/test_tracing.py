"""A request's id and trace, from its headers through the server to its answer and the log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from mlserve.wire.proto.serving_pb2 import PredictRequest

pytestmark = pytest.mark.server

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"x-request-id": "part-7", "traceparent": f"00-{TRACE}-{SPAN}-01"}
TIMING = re.compile(
    r"queue;dur=\d+\.\d{3}, decode;dur=\d+\.\d{3}, run;dur=(\d+\.\d{3}), encode;dur=\d+\.\d{3}"
)
SPANNED = re.compile(rf"00-{TRACE}-([0-9a-f]{{16}})-01")
TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}


@pytest.fixture
def call(channel_to: Any) -> Callable[..., tuple[grpc.StatusCode, dict[str, Any]]]:
    """Calls a method with metadata; returns the status and the trailing metadata."""

    def ask(server: Any, method: str, request: bytes, sent: Any = SENT) -> Any:
        calling = channel_to(server).unary_unary(method)
        future = calling.future(request, timeout=20, metadata=tuple(sent.items()))
        future.exception()
        return future.code(), dict(future.trailing_metadata())

    return ask


@pytest.fixture
def json_server(model: Any, start: Any) -> Any:
    model.put(7)
    return start("--log-format", "json")


def slow(request_of: Any, seconds: float) -> PredictRequest:
    request: PredictRequest = request_of(
        "slow", seconds=(np.array([seconds], np.float32), DType.FLOAT32)
    )
    return request


def logged(server: Any, request_id: str) -> dict[str, Any]:
    """The only line of the log about that request."""

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log().splitlines(keepends=True)]
        return [line for line in lines if line.get("request_id") == request_id]

    (line,) = wait_until(found)
    return line


@pytest.mark.parametrize(
    ("path", "body", "api"),
    [
        ("/v1/models/m:predict", {"inputs": ["x"]}, "tfs"),
        ("/v2/models/m/infer", {"inputs": [TENSOR]}, "oip"),
    ],
)
def test_over_rest(json_server: Any, path: str, body: Any, api: str) -> None:
    answer = json_server.post(body, path, headers=SENT)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "part-7"
    span = SPANNED.fullmatch(answer.headers["traceparent"])
    assert span
    assert TIMING.fullmatch(answer.headers["server-timing"])
    line = logged(json_server, "part-7")
    expected = {
        "level": "INFO",
        "message": "predict",
        "code": "ok",
        "api": api,
        "transport": "rest",
        "path": f"POST {path}",
        "model": "m",
        "version": 7,
        "signature": "serving_default",
        "trace_id": TRACE,
        "span_id": span[1],
        "parent_id": SPAN,
    }
    assert expected.items() <= line.items()
    assert line["bytes_in"] == int(answer.request.headers["content-length"])
    stages = [line[f"{stage}_ms"] for stage in ("queue", "decode", "run", "encode")]
    assert 0 < sum(stages) < line["total_ms"]


def test_over_grpc(json_server: Any, call: Any, request_of: Any) -> None:
    request = slow(request_of, 0.25).SerializeToString()
    method = "/tensorflow.serving.PredictionService/Predict"
    code, trailing = call(json_server, method, request)
    assert (code, trailing["x-request-id"]) == (grpc.StatusCode.OK, "part-7")
    span = SPANNED.fullmatch(trailing["traceparent"])
    timing = TIMING.fullmatch(trailing["server-timing"])
    assert span
    assert timing
    assert 250 <= float(timing[1]) < 20_000
    line = logged(json_server, "part-7")
    assert (line["path"], line["signature"], line["span_id"]) == (method, "slow", span[1])
    assert (line["transport"], line["bytes_in"]) == ("grpc", len(request))
    assert line["run_ms"] == float(timing[1])


def test_an_error_says_as_much(json_server: Any, call: Any) -> None:
    answer = json_server.post({"inputs": ["bad"]}, headers=SENT)
    assert answer.status_code == 415
    assert answer.headers["x-request-id"] == "part-7"
    assert SPANNED.fullmatch(answer.headers["traceparent"])
    assert re.match(r"queue;dur=[\d.]+, decode;dur=", answer.headers["server-timing"])
    line = logged(json_server, "part-7")
    assert (line["code"], line["message"]) == ("not_an_image", "predict failed")
    assert line["error"] == answer.json()["error"]

    request = ModelInferRequest(model_name="nope").SerializeToString()
    other = {**SENT, "x-request-id": "part-8"}
    method = "/inference.GRPCInferenceService/ModelInfer"
    code, trailing = call(json_server, method, request, other)
    assert (code, trailing["x-request-id"]) == (grpc.StatusCode.NOT_FOUND, "part-8")
    assert SPANNED.fullmatch(trailing["traceparent"])
    assert logged(json_server, "part-8")["code"] == "not_found"


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_from_the_command_line_to_the_log(json_server: Any, transport: str) -> None:
    endpoint = json_server.grpc if transport == "grpc" else f"http://{json_server.rest}"
    image = Path(__file__).parents[3] / "examples" / "horse.jpg"
    options = ["--endpoint", endpoint, "--model", "m", "--output", "json"]
    asking = subprocess.run(
        [sys.executable, "-m", "mlserve", "predict", str(image), *options],
        env={**os.environ, "TRACEPARENT": SENT["traceparent"]},
        capture_output=True,
        check=True,
    )
    told = json.loads(asking.stdout)
    line = logged(json_server, told["request_id"])
    assert (line["code"], line["transport"]) == ("ok", transport)
    assert line["trace_id"] == told["trace_id"] == TRACE
    assert line["parent_id"] not in ("", SPAN)  # a span of the client's own


def test_a_server_that_is_asked_without_ids_makes_them(server: Any, call: Any) -> None:
    answer = server.post({"inputs": ["x"]})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer.headers["traceparent"])
    _, trailing = call(server, "/inference.GRPCInferenceService/ServerLive", b"", {})
    assert re.fullmatch("[0-9a-f]{32}", trailing["x-request-id"])


def test_an_unexpected_error_names_its_request(json_server: Any) -> None:
    body = {"inputs": [1.0], "signature_name": "crash"}
    answer = json_server.post(body, headers=SENT)
    assert answer.status_code == 500
    wait_until(lambda: json_server.log().count("part-7") == 2)
    lines = [json.loads(line) for line in json_server.log().splitlines()]
    failure, request = (line for line in lines if line.get("request_id") == "part-7")
    assert failure["message"] == "an unexpected error"
    assert failure["trace_id"] == request["trace_id"] == TRACE
    assert failure["exception"].startswith("Traceback")
    assert (request["code"], request["level"]) == ("inference_failed", "WARNING")
