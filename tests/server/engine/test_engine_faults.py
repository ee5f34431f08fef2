"""What one request does to others: failures, waiting for a batch, and what is kept in memory."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest

from mlserve.server.codec.images import cost_of
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server


@pytest.fixture
def batching(model: Any, start: Any) -> Any:
    """Starts a server that batches; a batch waits for others up to ten seconds."""

    def serve(threads: int = 1, delay: float = 10.0) -> Any:
        model.put(1)
        flags = ("--max-batch-size", "2", "--max-batch-delay", str(delay))
        server = start("--threads", str(threads), *flags)
        model.journal.write_text("")
        return server

    return serve


@pytest.fixture
def measure(predict_on: Any, request_of: Any, model: Any) -> Any:
    """Runs the signature once: what has never been measured does not wait for a batch."""

    def run(server: Any) -> None:
        predict_on(server, request_of("fragile", a=numbers(1.0))).result()
        model.journal.write_text("")

    return run


def numbers(*values: float) -> tuple[Any, DType]:
    return np.array(values, np.float32), DType.FLOAT32


def test_a_batch_that_fails_fails_only_the_request_at_fault(
    batching: Any, measure: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = batching()
    measure(server)
    calls = [predict_on(server, request_of("fragile", a=numbers(a))) for a in (1.0, -1.0)]
    assert list(calls[0].result().outputs["sum"].float_val) == [1.0]
    assert calls[1].exception().code() is grpc.StatusCode.INTERNAL
    assert calls[1].exception().details() == "out of memory"
    assert model.runs() == ["fragile"] * 3


@pytest.mark.parametrize("is_batched", [False, True])
def test_a_panic_of_the_runtime_is_an_error_and_holds_nothing(
    batching: Any,
    measure: Any,
    start: Any,
    model: Any,
    predict_on: Any,
    request_of: Any,
    is_batched: bool,
) -> None:
    if not is_batched:
        model.put(1)
    server = batching() if is_batched else start("--threads", "1")
    if is_batched:
        measure(server)
    sent = (-1000.0, 1.0) if is_batched else (-1000.0,)
    calls = [predict_on(server, request_of("fragile", a=numbers(a))) for a in sent]
    error = calls[0].exception()
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "internal error" in error.details()
    for call in calls[1:]:
        assert list(call.result().outputs["sum"].float_val) == [1.0]
    server.process.terminate()
    assert server.exit_code() == 0  # the drain ends, as no slot and no lease is held


def test_what_waits_for_its_batch_holds_up_nobody_else(
    batching: Any, measure: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = batching(threads=2)
    measure(server)
    waiting = predict_on(server, request_of("fragile", a=numbers(1.0)), timeout=15)
    wait_until(lambda: "mlserve_requests_waiting 1.0" in metrics(server))
    other = predict_on(server, request_of("identity_float32", x=numbers(2.0)), timeout=30)
    assert list(other.result().outputs["y"].float_val) == [2.0]
    assert model.runs() == ["identity_float32"]
    assert not waiting.done()
    predict_on(server, request_of("fragile", a=numbers(3.0))).result()
    assert waiting.result()
    assert model.runs() == ["identity_float32", "fragile"]


def test_what_waits_starts_when_the_others_of_its_batch_have_left(
    batching: Any, measure: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    """The one that left had put off the start of all: nobody may sleep until then."""
    server = batching(threads=1, delay=30)
    measure(server)
    head = predict_on(server, request_of("fragile", a=numbers(1.0)), timeout=50)
    wait_until(lambda: "mlserve_requests_waiting 1.0" in metrics(server))
    predict_on(server, request_of("identity_float32", x=numbers(2.0))).result()
    head.cancel()
    wait_until(lambda: "mlserve_requests_waiting 0.0" in metrics(server))
    pair = [predict_on(server, request_of("fragile", a=numbers(a))) for a in (2.0, 3.0)]
    for call in pair:
        assert call.result(timeout=20)
    assert model.runs() == ["identity_float32", "fragile"]


def test_slow_requests_of_a_signature_say_nothing_of_a_fast_one(server: Any) -> None:
    """Over REST, where the signature stands in a body that is not read yet on arrival."""
    for _ in range(4):
        server.post({"signature_name": "slow", "inputs": [1.2]})
    fast = {"signature_name": "two", "inputs": {"a": [1.0], "b": [2.0]}}
    answer = server.post(fast, headers={"X-Request-Timeout-Ms": "1000"})
    assert answer.status_code == 200, answer.text
    packed = gzip.compress(json.dumps(fast).encode())
    for _ in range(2):  # the body says nothing before it is unpacked
        answer = httpx.post(
            f"http://{server.rest}/v1/models/m:predict",
            content=packed,
            headers={"Content-Encoding": "gzip", "X-Request-Timeout-Ms": "1000"},
            timeout=20,
        )
        assert answer.status_code == 200, answer.text


def test_fast_requests_are_let_in_beside_a_slow_one(model: Any, start: Any) -> None:
    model.put(1)
    server = start("--threads", "2")
    fast = {"signature_name": "two", "inputs": {"a": [1.0], "b": [2.0]}}
    for _ in range(3):
        server.post({"signature_name": "slow", "inputs": [1.0]})
        assert server.post(fast).status_code == 200
    with ThreadPoolExecutor(1) as clients:
        slow = clients.submit(server.post, {"signature_name": "slow", "inputs": [25.0]})
        wait_until(lambda: "mlserve_requests_running 1.0" in metrics(server))
        answers = [
            server.post(fast, headers={"X-Request-Timeout-Ms": "1000"}).status_code
            for _ in range(20)
        ]
        assert not slow.done()
        model.release()
    assert answers == [200] * 20


def test_an_answered_request_of_long_json_is_forgotten(server: Any) -> None:
    """Its deadline is an hour away; 40 of them were kept until then, with all that they held."""
    data = ["x" * 1_000_000]
    body = {
        "parameters": {"timeout": 3_000_000_000},
        "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": data}],
    }
    path = "/v2/models/m/infer?signature=identity_string"
    body["parameters"]["signature"] = "identity_bytes"
    process = psutil.Process(server.process.pid)
    headers = {"X-Request-Timeout-Ms": "3600000"}
    server.post(body, path, headers=headers).raise_for_status()
    before = process.memory_info().rss
    for _ in range(40):
        server.post(body, path, headers=headers).raise_for_status()
    assert process.memory_info().rss - before < 40_000_000


def test_a_row_of_fill_bytes_is_looked_at_once() -> None:
    """FFD8 and 4 MB of FF: a search that starts anew at each of them would take hours."""
    began = time.thread_time()
    assert cost_of(b"\xff\xd8" + b"\xff" * 4_000_000) is None
    assert time.thread_time() - began < 5


def test_members_of_gzip_are_bounded(server: Any) -> None:
    """4 MB of empty members: unpacked in no time, or refused; never seconds of copying."""
    body = gzip.compress(b"") * 200_000
    answer = httpx.post(
        f"http://{server.rest}/v1/models/m:predict",
        content=body,
        headers={"Content-Encoding": "gzip"},
        timeout=20,
    )
    assert answer.status_code == 400
    assert answer.json()["error"] == "the body has more than 4096 gzip members"


def metrics(server: Any) -> str:
    text: str = httpx.get(f"http://{server.rest}/metrics", timeout=20).text
    return text
