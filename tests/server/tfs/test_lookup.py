"""What TensorFlow Serving says of models, versions, labels and signatures that it does not have.

Readiness loops of other people look for these codes and texts, some for the whole text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
)

IMAGE = np.array([b"x"], object), DType.BYTES
KINDS: dict[str, tuple[str, Any, Any]] = {
    "Predict": ("PredictionService", PredictRequest, PredictResponse),
    "Classify": ("PredictionService", ClassificationRequest, ClassificationResponse),
    "Regress": ("PredictionService", RegressionRequest, RegressionResponse),
    "GetModelMetadata": ("PredictionService", GetModelMetadataRequest, GetModelMetadataResponse),
    "GetModelStatus": ("ModelService", GetModelStatusRequest, GetModelStatusResponse),
}
NO_LABEL = "Unrecognized servable version label: stable"
NO_SIGNATURE = 'Serving signature key "topk" not found.'


@pytest.fixture
def ask(server: Any, channel_to: Any) -> Callable[..., tuple[str, str]]:
    """`ask("Predict", {"name": "m"})`: the code and the text of the answer; None: no model_spec."""

    def ask(method: str, spec: dict[str, Any] | None) -> tuple[str, str]:
        service, request_kind, response_kind = KINDS[method]
        call = channel_to(server).unary_unary(
            f"/tensorflow.serving.{service}/{method}",
            request_serializer=request_kind.SerializeToString,
            response_deserializer=response_kind.FromString,
        )
        request = request_kind()
        if spec is not None:
            request.model_spec.CopyFrom(ModelSpec(**spec))
        if method == "GetModelMetadata":
            request.metadata_field.append("signature_def")
        answer = call.future(request, timeout=20)
        return answer.code().name, answer.details()

    return ask


@pytest.mark.parametrize("method", ["Predict", "GetModelMetadata", "Classify", "Regress"])
@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ({}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"name": "dummy"}, "NOT_FOUND", "Servable not found for request: Latest(dummy)"),
        (
            {"name": "dummy", "version": {"value": 9}},
            "NOT_FOUND",
            "Servable not found for request: Specific(dummy, 9)",
        ),
        (
            {"name": "m", "version": {"value": 9}},
            "NOT_FOUND",
            "Servable not found for request: Specific(m, 9)",
        ),
        (
            {"name": "m", "version": {"value": -1}},
            "NOT_FOUND",
            "Servable not found for request: Specific(m, -1)",
        ),
        ({"name": "m", "version_label": "stable"}, "INVALID_ARGUMENT", NO_LABEL),
        ({"name": "dummy", "version_label": "stable"}, "INVALID_ARGUMENT", NO_LABEL),
    ],
)
def test_a_servable_that_is_not_there(
    ask: Any, method: str, spec: Any, code: str, text: str
) -> None:
    """Whole texts: a check with `==` is what some clients have."""
    assert ask(method, spec) == (code, text)


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ({}, "NOT_FOUND", "Could not find any versions of model "),
        ({"name": "dummy"}, "NOT_FOUND", "Could not find any versions of model dummy"),
        (
            {"name": "m", "version": {"value": 9}},
            "NOT_FOUND",
            "Could not find version 9 of model m",
        ),
        ({"name": "m", "version_label": "stable"}, "INVALID_ARGUMENT", NO_LABEL),
    ],
)
def test_the_status_of_what_is_not_there(ask: Any, spec: Any, code: str, text: str) -> None:
    assert ask("GetModelStatus", spec) == (code, text)


def test_an_unknown_signature_is_a_failed_precondition_over_grpc(ask: Any) -> None:
    code, text = ask("Predict", {"name": "m", "signature_name": "topk"})
    assert code == "FAILED_PRECONDITION"
    assert text.startswith(f"{NO_SIGNATURE} There are: ")
    assert "did you mean 'top_k'" in text


def test_an_unknown_signature_is_a_bad_request_over_rest(http: httpx.Client) -> None:
    refused = http.post("/v1/models/m:predict", json={"signature_name": "topk", "inputs": ["x"]})
    assert refused.status_code == 400
    text = refused.json()["error"]
    assert text.startswith('Serving signature name: "topk" not found in signature def')


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "dummy:predict", 404, "Servable not found for request: Latest(dummy)"),
        ("POST", "m/versions/9:predict", 404, "Servable not found for request: Specific(m, 9)"),
        ("POST", "dummy:classify", 404, "Servable not found for request: Latest(dummy)"),
        ("POST", "m/versions/9:regress", 404, "Servable not found for request: Specific(m, 9)"),
        ("GET", "dummy/metadata", 404, "Servable not found for request: Latest(dummy)"),
        ("GET", "m/versions/9/metadata", 404, "Servable not found for request: Specific(m, 9)"),
        ("POST", "m/labels/stable:predict", 400, NO_LABEL),
        ("GET", "m/labels/stable/metadata", 400, NO_LABEL),
        ("GET", "m/labels/stable", 400, NO_LABEL),
        ("GET", "dummy", 404, "Could not find any versions of model dummy"),
        ("GET", "m/versions/9", 404, "Could not find version 9 of model m"),
    ],
)
def test_what_is_not_there_over_rest(
    http: httpx.Client, method: str, path: str, status: int, text: str
) -> None:
    content = b'{"inputs": ["x"]}' if method == "POST" else None
    answer = http.request(method, f"/v1/models/{path}", content=content)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


@pytest.mark.parametrize("digits", ["9" * 19, "18446744073709551615", "1" + "0" * 10_000])
@pytest.mark.parametrize(
    ("method", "verb"), [("GET", ""), ("GET", "/metadata"), ("POST", ":predict")]
)
def test_a_version_that_is_no_int64(
    http: httpx.Client, server: Any, method: str, verb: str, digits: str
) -> None:
    answer = http.request(method, f"/v1/models/m/versions/{digits}{verb}", content=b"")
    text = answer.json()["error"]
    assert (answer.status_code, text[:26]) == (400, "Failed to convert version:")
    assert text.endswith(" to numeric.")
    assert len(text) < 200
    assert "Traceback" not in server.log()


def test_a_version_with_zeros_in_front_is_the_same_version(http: httpx.Client) -> None:
    for digits in ("7", "007", "0" * 5_000 + "7"):
        answer = http.post(f"/v1/models/m/versions/{digits}:predict", json={"inputs": ["x"]})
        assert answer.json() == {"outputs": ["sorrel"]}


@pytest.mark.parametrize("path", ["ready", "", "infer", "stats", "config"])
def test_a_version_of_10000_digits_in_the_open_inference_protocol(
    http: httpx.Client, server: Any, path: str
) -> None:
    where = f"/v2/models/m/versions/{'9' * 10_000}/{path}".rstrip("/")
    answer = http.post(where, json={}) if path == "infer" else http.get(where)
    assert answer.status_code == 404
    assert len(answer.text) < 1200
    assert "Traceback" not in server.log()


def test_a_label_of_10000_digits(http: httpx.Client, ask: Any, server: Any) -> None:
    label = "9" * 10_000
    answer = http.get(f"/v1/models/m/labels/{label}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Unrecognized servable version label: 999")
    assert len(answer.text) < 1200
    code, text = ask("Predict", {"name": "m", "version_label": label})
    assert (code, len(text) < 1200) == ("INVALID_ARGUMENT", True)
    assert "Traceback" not in server.log()


def test_loops_that_wait_for_a_dummy_model_wait_for_the_real_one(
    model: Any, launch: Any, predict_on: Any, request_of: Any
) -> None:
    """TensorFlow Serving opens its ports when its models are loaded.

    So its own tests, and others, ask for a model that is not there until they are told so. While
    the first models load, that answer must not come.
    """
    model.put(1, load_delay=60)
    server = launch()
    server.wait_listening()
    request = request_of(image=IMAGE)
    request.model_spec.name = "intentionally_missing_model"
    said = []

    def is_ready() -> bool:
        call = predict_on(server, request)
        said.append((call.code().name, call.details()))
        model.release()
        return "Servable" in call.details()

    wait_until(is_ready)
    assert server.is_available(), "it was ready when the loop ended"
    assert said[0][0] == "UNAVAILABLE"
    assert said[-1] == (
        "NOT_FOUND",
        "Servable not found for request: Latest(intentionally_missing_model)",
    )


def test_loops_that_poll_the_state_or_predict_until_it_works(
    model: Any, launch: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1, load_delay=1.0)
    server = launch()
    server.wait_listening()

    def state() -> str:
        answer = httpx.get(f"http://{server.rest}/v1/models/m")
        assert answer.status_code == 200
        states: list[str] = [one["state"] for one in answer.json()["model_version_status"]]
        return states[0]

    def code() -> grpc.StatusCode:
        answer: grpc.StatusCode = predict_on(server, request_of(image=IMAGE)).code()
        return answer

    waiting = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
    until = time.monotonic() + 20
    while (met := code()) in waiting:
        assert time.monotonic() < until
    assert met is grpc.StatusCode.OK
    assert state() == "AVAILABLE"


def test_of_a_header_that_comes_twice_the_first_counts_on_both_ports(
    server: Any, http: httpx.Client, predict_on: Any, request_of: Any, channel_to: Any
) -> None:
    sent = [("x-request-id", "one"), ("x-request-id", "two")]
    answer = http.post("/v1/models/m:predict", json={"inputs": ["x"]}, headers=sent)
    assert answer.headers["x-request-id"] == "one"
    method = channel_to(server).unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=PredictRequest.SerializeToString,
    )
    _, call = method.with_call(request_of(image=IMAGE), metadata=tuple(sent), timeout=20)
    assert dict(call.trailing_metadata())["x-request-id"] == "one"


def test_of_two_deadlines_the_shorter_one_holds(http: httpx.Client) -> None:
    body = {"signature_name": "slow", "inputs": [1.0]}
    sent = [("X-Request-Timeout-Ms", "20000"), ("X-Request-Timeout-Ms", "100")]
    assert http.post("/v1/models/m:predict", json=body, headers=sent).status_code == 504
