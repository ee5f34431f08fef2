"""The statistics extension: known numbers of requests, and the counts that are read."""

from __future__ import annotations

import time
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server
BOTH = pytest.mark.parametrize("protocol", ["http", "grpc"])


def numbers(found: Any) -> Any:
    """The same as integers: the JSON of a gRPC message has its int64 as strings."""
    if isinstance(found, dict):
        return {key: numbers(value) for key, value in found.items()}
    if isinstance(found, list):
        return [numbers(value) for value in found]
    return int(found) if isinstance(found, str) and found.isdigit() else found


def statistics(client: Any, protocol: str, *args: str) -> list[dict[str, Any]]:
    options = {} if protocol == "http" else {"as_json": True}
    found: list[dict[str, Any]] = numbers(
        client.get_inference_statistics(*args, **options).get("model_stats", [])
    )
    return found


def counts(stats: dict[str, Any]) -> dict[str, int]:
    """The counts of `inference_stats` that are not 0."""
    found = {name: entry.get("count", 0) for name, entry in stats["inference_stats"].items()}
    return {name: count for name, count in found.items() if count}


def images(*contents: bytes) -> Any:
    return np.array(contents, object)


@BOTH
def test_what_was_asked_is_what_is_counted(
    model: Any, start: Any, triton_to: Any, protocol: str
) -> None:
    """Both APIs, both transports: five that are answered, four that fail, one that is not known."""
    model.put(7, delay=0.01)
    server = start()
    client = triton_to(server, protocol)
    [before] = statistics(client, protocol, "m")
    assert (counts(before), before.get("inference_count", 0)) == ({}, 0)
    began = time.time()

    for _ in range(2):  # one row, then three
        client.infer("m", [client.tensor("image", images(b"x"))])
        client.infer("m", [client.tensor("image", images(b"x", b"y", b"z"))])
    assert server.post({"inputs": ["x"]}).status_code == 200
    for _ in range(3):
        with pytest.raises(InferenceServerException):
            client.infer("m", [client.tensor("image", images(b"bad"))])
    assert server.post({"inputs": ["bad"]}).status_code == 415
    assert server.post({"inputs": ["x"]}, "/v1/models/other:predict").status_code == 404
    for path in ("/v2/models/m", "/v2/models/m/ready", "/v1/models/m"):
        httpx.get(f"http://{server.rest}{path}")

    [found] = statistics(client, protocol, "m", "7")
    stages = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 5)
    assert counts(found) == {"success": 5, "fail": 4, **stages}
    assert (found["name"], str(found["version"])) == ("m", "7")
    assert (found["inference_count"], found["execution_count"]) == (1 + 3 + 1 + 3 + 1, 5)
    batches = {
        entry["batch_size"]: entry["compute_infer"]["count"] for entry in found["batch_stats"]
    }
    assert batches == {1: 3, 3: 2}
    assert began * 1000 - 1 <= found["last_inference"] <= time.time() * 1000 + 1
    assert found["inference_stats"]["compute_infer"]["ns"] >= 5 * 10_000_000
    total = found["inference_stats"]["success"]["ns"]
    assert total >= sum(found["inference_stats"][stage]["ns"] for stage in stages)
    assert statistics(client, protocol) == [found]


@BOTH
def test_a_batch_is_one_execution_of_all_its_rows(
    model: Any, start: Any, triton_to: Any, predict_on: Any, request_of: Any, protocol: str,
) -> None:  # fmt: skip
    model.put(7)
    server = start("--threads", "1", "--max-batch-size", "8", "--max-batch-delay", "0")
    model.journal.write_text("")
    slow = predict_on(
        server, request_of("slow", seconds=(np.array([60.0], np.float32), DType.FLOAT32))
    )
    wait_until(lambda: model.runs() == ["slow"])
    sent = [images(*[b"x"] * rows) for rows in (1, 2, 4)]
    calls = [predict_on(server, request_of(image=(rows, DType.BYTES))) for rows in sent]
    wait_until(lambda: server.in_flight() == 4)
    model.release()
    assert all(call.result() for call in (slow, *calls))
    assert model.runs() == ["slow", "serving_default"]

    [found] = statistics(triton_to(server, protocol), protocol, "m")
    assert counts(found)["success"] == 4
    assert (found["inference_count"], found["execution_count"]) == (1 + 7, 2)
    assert [entry["batch_size"] for entry in found["batch_stats"]] == [1, 7]


def test_a_batch_that_is_refused_is_run_one_by_one(
    model: Any, start: Any, triton_to: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(7)
    server = start("--threads", "1", "--max-batch-size", "8", "--max-batch-delay", "0")
    model.journal.write_text("")
    slow = predict_on(
        server, request_of("slow", seconds=(np.array([60.0], np.float32), DType.FLOAT32))
    )
    wait_until(lambda: model.runs() == ["slow"])
    sent = [images(b"x"), images(b"bad"), images(b"y", b"z")]
    calls = [predict_on(server, request_of(image=(rows, DType.BYTES))) for rows in sent]
    wait_until(lambda: server.in_flight() == 4)
    model.release()
    codes = [slow.code(), *(call.code() for call in calls)]
    assert codes.count(grpc.StatusCode.OK) == 3

    [found] = statistics(triton_to(server, "http"), "http", "m")
    assert (counts(found)["success"], counts(found)["fail"]) == (3, 1)
    assert (found["inference_count"], found["execution_count"]) == (1 + 1 + 2, 3)


def test_a_request_that_ends_too_late_has_failed_though_the_model_ran(
    model: Any, start: Any, triton_to: Any
) -> None:
    model.put(7, delay=0.5)
    server = start("--default-timeout", "20")
    client = triton_to(server, "http")
    with pytest.raises(InferenceServerException, match="no answer within"):
        client.infer("m", [client.tensor("image", images(b"x"))], timeout=100_000)
    wait_until(lambda: statistics(client, "http", "m")[0]["execution_count"] == 1)
    [found] = statistics(client, "http", "m")
    assert counts(found) == {"fail": 1}


@BOTH
def test_a_model_or_version_that_is_not_there_has_no_statistics(
    server: Any, triton_to: Any, protocol: str
) -> None:
    client = triton_to(server, protocol)
    for args in (("other",), ("m", "8"), ("m", "x")):
        with pytest.raises(InferenceServerException, match=r"(?i)could not find"):
            client.get_inference_statistics(*args)
