"""Admission, queueing and deadlines, seen from outside: the echo backend's journal counts runs."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from tests.harness.requests import hang_up

pytestmark = pytest.mark.server

IMAGE = np.array([b"x"], object), DType.BYTES


@pytest.fixture
def narrow(model: Any, start: Any) -> Any:
    """A server with one worker, and room for one request to wait."""
    model.put(1)
    server = start("--threads", "1", "--max-queue", "1")
    model.journal.write_text("")
    return server


@pytest.fixture
def occupy(narrow: Any, model: Any, predict_on: Any, request_of: Any) -> Any:
    """Keeps the one worker busy until it is released; returns when it is."""

    def occupy(timeout: float = 60) -> Any:
        request = request_of("slow", seconds=(np.array([60], np.float32), DType.FLOAT32))
        call = predict_on(narrow, request, timeout=timeout)
        wait_until(lambda: model.runs() == ["slow"])
        return call

    return occupy


def code_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = call.exception().code()
    return code


def hurried(server: Any) -> str:
    """The error of a request with half a second."""
    answer = server.post({"inputs": ["x"]}, headers={"X-Request-Timeout-Ms": "500"})
    assert answer.status_code in (429, 504)
    error: str = answer.json()["error"]
    return error


def test_a_full_queue_is_said_so(
    narrow: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    slow = occupy()
    first, second = (predict_on(narrow, request_of(image=IMAGE)) for _ in range(2))
    wait_until(lambda: first.done() or second.done())
    refused, waiting = (first, second) if first.done() else (second, first)
    assert code_of(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    answer = narrow.post({"inputs": ["x"]})
    assert answer.status_code == 429
    assert answer.json() == {"error": "1 requests are running and 1 waiting: the queue is full"}
    assert answer.headers["retry-after"] == "1"
    model.release()
    assert slow.result().outputs["done"].float_val
    assert waiting.result().outputs["output_0"].string_val == [b"sorrel"]
    assert model.runs() == ["slow", "serving_default"]


def test_what_expires_in_the_queue_is_never_started(
    narrow: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    slow = occupy()
    call = predict_on(narrow, request_of("top_k", image=IMAGE), timeout=0.5)
    assert code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: "waiting in the server's queue" in hurried(narrow))  # its place is free
    model.release()
    assert slow.result()
    assert predict_on(narrow, request_of(image=IMAGE)).result()
    assert model.runs() == ["slow", "serving_default"]


def test_the_slot_is_held_until_the_work_has_ended(
    narrow: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    """The caller has its answer at once, and no second request runs beside the first."""
    slow = occupy(timeout=2)
    assert code_of(slow) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "while waiting in the server's queue" in hurried(narrow)
    model.release()
    assert predict_on(narrow, request_of(image=IMAGE)).result()


def test_a_client_that_has_gone_frees_its_place(
    narrow: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    slow = occupy()
    call = predict_on(narrow, request_of("top_k", image=IMAGE))
    wait_until(lambda: narrow.in_flight() == 2)
    call.cancel()
    wait_until(lambda: narrow.in_flight() == 1)
    model.release()
    assert slow.result()
    assert predict_on(narrow, request_of(image=IMAGE)).result()
    assert model.runs() == ["slow", "serving_default"]


SENT = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/m:predict", {"inputs": ["x"], "signature_name": "top_k"}),
        ("/v2/models/m/infer", {"inputs": [SENT], "parameters": {"signature": "top_k"}}),
    ],
)
def test_a_rest_client_that_has_gone_frees_its_place(
    narrow: Any, occupy: Any, model: Any, path: str, body: Any
) -> None:
    slow = occupy()
    hang_up(f"http://{narrow.rest}{path}", body, once=lambda: narrow.in_flight() == 2)
    wait_until(lambda: narrow.in_flight() == 1)
    model.release()
    assert slow.result()
    assert narrow.post({"inputs": ["x"]}).json() == {"outputs": ["sorrel"]}
    assert model.runs() == ["slow", "serving_default"]


def test_a_deadline_that_has_passed_already_is_never_started(narrow: Any, model: Any) -> None:
    answer = narrow.post({"inputs": ["x"]}, headers={"X-Request-Timeout-Ms": "0"})
    assert answer.status_code == 504
    assert model.runs() == []


@pytest.fixture
def measured(request: Any, model: Any, start: Any, predict_on: Any, request_of: Any) -> Any:
    """A server with one worker that knows how long an image takes: 0.8 s, or what a test says."""
    model.put(1, delay=getattr(request, "param", 0.8))
    server = start("--threads", "1", "--max-queue", "64")
    for _ in range(3):
        assert predict_on(server, request_of(image=IMAGE)).result()
    model.journal.write_text("")
    return server


@pytest.mark.parametrize("measured", [1.6], indirect=True)
def test_what_cannot_be_in_time_is_refused_on_arrival_with_when_to_come_back(
    measured: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    call = predict_on(measured, request_of(image=IMAGE))
    wait_until(lambda: model.runs() == ["serving_default"])
    refused = predict_on(measured, request_of(image=IMAGE), timeout=2.3)
    assert code_of(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the answer would come about " in refused.exception().details()
    pushback = int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"])
    assert 0 < pushback < 2300, "what is left of the one that runs, and not of both"
    assert call.result()
    assert model.runs() == ["serving_default"]


def test_over_rest_the_client_is_told_in_seconds_and_in_milliseconds(
    narrow: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    slow = occupy()
    waiting = predict_on(narrow, request_of(image=IMAGE))
    wait_until(lambda: narrow.in_flight() == 2)
    answer = narrow.post({"inputs": ["x"]})
    assert answer.status_code == 429
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
    model.release()
    assert slow.result()
    assert waiting.result()


def test_a_deadline_that_no_idle_server_could_keep_is_said_so_at_once(
    measured: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    """Not Overloaded: to come back does not help."""
    call = predict_on(measured, request_of(image=IMAGE), timeout=0.75)
    assert code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the model needs about " in call.exception().details()
    assert model.runs() == []


def test_the_signature_is_looked_at_again_when_the_body_has_been_read(
    measured: Any, model: Any
) -> None:
    """A REST body is read on the worker: until then nothing says what it asks for."""
    answer = measured.post({"inputs": ["x"]}, headers={"X-Request-Timeout-Ms": "750"})
    assert answer.status_code == 504
    assert "the model needs about " in answer.json()["error"]
    assert model.runs() == []


def test_a_deadline_that_is_always_too_short_is_soon_not_tried_any_more(
    model: Any, start: Any
) -> None:
    """Though no such call ends in time, and so none is measured from begin to end."""
    model.put(1)
    server = start("--threads", "1")

    def told() -> str:
        """What a call is told that would take twice its time."""
        body = {"signature_name": "slow", "inputs": [0.2]}
        answer = server.post(body, headers={"X-Request-Timeout-Ms": "100"})
        assert answer.status_code == 504
        assert server.post({"inputs": ["x"]}).status_code == 200  # once that has ended
        error: str = answer.json()["error"]
        return error

    for _ in range(30):  # on a busy machine, what is left of a call when it runs teaches little
        if "needs about " in told():
            break
    runs = model.runs().count("slow")
    assert "needs about " in told()
    assert model.runs().count("slow") == runs


def test_the_default_timeout_is_a_setting(model: Any, start: Any) -> None:
    model.put(1)
    server = start("--threads", "1", "--default-timeout", "0.2", "--drain-timeout", "0.1")
    slow = {"inputs": {"seconds": [5.0]}, "signature_name": "slow"}
    answer = server.post(slow)
    assert answer.status_code == 504
    assert "no answer within 0.2 s" in answer.json()["error"]
