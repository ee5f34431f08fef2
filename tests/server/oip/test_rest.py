"""The Open Inference Protocol's REST API of a real server, spoken raw over HTTP."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.testing.processes import wait_until

V2 = "/v2/models/m"
LENGTH = "Inference-Header-Content-Length"
IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}


def error_of(response: httpx.Response, status: int) -> str:
    """The message of an error, which has the one shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    message: str = body["error"]
    return message


def tensor(value: Any, datatype: str = "FP32", name: str = "seconds") -> dict[str, Any]:
    array = np.array(value)
    shape, data = list(array.shape), array.reshape(-1).tolist()
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def binary(request: Any, *tensors: bytes) -> dict[str, Any]:
    """What to post: the JSON of the request with these tensors behind it."""
    head = json.dumps(request).encode()
    return {"content": head + b"".join(tensors), "headers": {LENGTH: str(len(head))}}


def split(response: httpx.Response) -> tuple[Any, bytes]:
    """The JSON of a binary response, and what follows it."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    return json.loads(response.content[:length]), response.content[length:]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"live": True, "ready": True}),
        (f"{V2}/ready", {"name": "m", "ready": True}),
        (f"{V2}/versions/7/ready", {"name": "m", "ready": True}),
        ("/v2/models/%6d/ready", {"name": "m", "ready": True}),
    ],
)
def test_health(http: httpx.Client, path: str, answer: Any) -> None:
    assert http.get(path).json() == answer


def test_the_server(http: httpx.Client) -> None:
    answer = http.get("/v2").json()
    assert answer["name"] == "mlserve"
    assert list(answer) == ["name", "version", "extensions", "parameters"]
    assert {"classification", "statistics"} <= set(answer["extensions"])


@pytest.mark.parametrize("path", [V2, f"{V2}/versions/7", f"{V2}/"])
def test_metadata(http: httpx.Client, path: str) -> None:
    answer = http.get(path).json()
    parameters = answer.pop("parameters")
    assert answer == {
        "name": "m",
        "versions": ["7"],
        "platform": "mlserve_echo",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "output_0", "datatype": "BYTES", "shape": [-1]}],
    }
    assert parameters["signature"] == "serving_default"
    assert {"top_k", "two", "serving_default"} < set(parameters["signatures"])
    assert "identity_complex64" not in parameters["signatures"]
    assert parameters["served_by"].endswith("; certificate=none")


def test_metadata_of_another_signature(http: httpx.Client) -> None:
    answer = http.get(V2, params={"signature": "top_k"}).json()
    assert answer["parameters"]["signature"] == "top_k"
    assert answer["outputs"][0] == {"name": "labels", "datatype": "BYTES", "shape": [-1, 5]}
    refused = http.get(V2, params={"signature": "top"})
    assert "did you mean 'top_k' for 'top'" in error_of(refused, 404)
    refused = http.get(V2, params={"signature": "identity_complex64"})
    assert "no type for" in error_of(refused, 400)


def test_the_label(http: httpx.Client) -> None:
    response = http.post(f"{V2}/infer", json={"id": "42", "inputs": [IMAGE]})
    assert response.json() == {
        "model_name": "m",
        "model_version": "7",
        "id": "42",
        "outputs": [{"name": "output_0", "datatype": "BYTES", "shape": [1], "data": ["sorrel"]}],
    }
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-mlserve-model-version"] == "7"
    assert "x-mlserve-random-weights" not in response.headers


def test_another_signature_and_a_subset_of_its_outputs(http: httpx.Client) -> None:
    request = {
        "inputs": [tensor([2.0, 0.1], name="a"), tensor([3.0, 1.0], name="b")],
        "parameters": {"signature": "two"},
    }
    outputs = http.post(f"{V2}/versions/7/infer", json=request).json()["outputs"]
    assert [output["name"] for output in outputs] == ["sum", "product"]
    wanted = {**request, "outputs": [{"name": "product"}]}
    (output,) = http.post(f"{V2}/infer", json=wanted).json()["outputs"]
    assert output == {"name": "product", "datatype": "FP32", "shape": [2], "data": [6.0, 0.1]}


def test_numbers_that_are_none(http: httpx.Client) -> None:
    body = b"""{"inputs": [{"name": "x", "shape": [3], "datatype": "FP32",
        "data": [NaN, Infinity, -Infinity]}], "parameters": {"signature": "identity_float32"}}"""
    response = http.post(f"{V2}/infer", content=body)
    assert '"data": [NaN, Infinity, -Infinity]' in response.text


def test_binary_both_ways(http: httpx.Client) -> None:
    sent = [{"name": name, "shape": [2], "datatype": "FP32"} for name in ("a", "b")]
    for item in sent:
        item["parameters"] = {"binary_data_size": 8}
    request = {"inputs": sent, "parameters": {"signature": "two", "binary_data_output": True}}
    a, b = np.array([1, np.nan], "<f4"), np.array([5, 6], "<f4")
    head, tail = split(http.post(f"{V2}/infer", **binary(request, a.tobytes(), b.tobytes())))
    assert [output["parameters"]["binary_data_size"] for output in head["outputs"]] == [8, 8]
    assert "data" not in head["outputs"][0]
    np.testing.assert_array_equal(np.frombuffer(tail, "<f4"), [6, np.nan, 5, np.nan])


def test_one_output_binary_and_one_not(http: httpx.Client) -> None:
    request = {
        "inputs": [tensor([2.0], name="a"), tensor([3.0], name="b")],
        "parameters": {"signature": "two", "binary_data_output": True},
        "outputs": [{"name": "product"}, {"name": "sum", "parameters": {"binary_data": False}}],
    }
    head, tail = split(http.post(f"{V2}/infer", json=request))
    assert "data" not in head["outputs"][0]
    assert head["outputs"][1]["data"] == [5.0]
    assert tail == struct.pack("<f", 6)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_is_binary(http: httpx.Client, datatype: str) -> None:
    signature = {"FP16": "identity_float16", "BF16": "identity_bfloat16"}[datatype]
    item = {"name": "x", "shape": [2], "datatype": datatype}
    request: Any = {
        "inputs": [{**item, "parameters": {"binary_data_size": 4}}],
        "parameters": {"signature": signature},
    }
    message = error_of(http.post(f"{V2}/infer", **binary(request, b"\0\x3c\0\x7e")), 400)
    assert f"output 'y' is {datatype}, which has no form in JSON" in message
    request["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    _, tail = split(http.post(f"{V2}/infer", **binary(request, b"\0\x3c\0\x7e")))
    assert tail == b"\0\x3c\0\x7e"


def test_a_raw_request(http: httpx.Client) -> None:
    response = http.post(f"{V2}/infer", content=b"\xff\xd8", headers={LENGTH: "0"})
    head, tail = split(response)
    assert head["outputs"][0]["shape"] == [1]
    assert tail == struct.pack("<I", 6) + b"sorrel"
    refused = http.post(f"{V2}/infer", content=b"bad", headers={LENGTH: "0"})
    assert "image 0 of 1" in error_of(refused, 415)


def test_an_empty_batch(http: httpx.Client) -> None:
    request = {"inputs": [tensor([], "FP32", "x")], "parameters": {"signature": "identity_float32"}}
    assert http.post(f"{V2}/infer", json=request).json()["outputs"][0]["data"] == []
    request["parameters"]["binary_data_output"] = True
    head, tail = split(http.post(f"{V2}/infer", json=request))
    assert (head["outputs"][0]["parameters"], tail) == ({"binary_data_size": 0}, b"")


@pytest.mark.parametrize("name", ["output_0", "scores"])
def test_classification(http: httpx.Client, name: str) -> None:
    request = {
        "inputs": [{**IMAGE, "shape": [2], "data": ["x", "y"]}],
        "outputs": [{"name": name, "parameters": {"classification": 2}}],
    }
    (output,) = http.post(f"{V2}/infer", json=request).json()["outputs"]
    assert output == {
        "name": name,
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["0.5:0:sorrel", "0.25:1:zebra"] * 2,
    }


def test_a_gzip_body(http: httpx.Client) -> None:
    request = {"inputs": [{**IMAGE, "parameters": {"binary_data_size": 5}}]}
    del request["inputs"][0]["data"]
    sent = binary(request, b"\1\0\0\0x")
    sent["content"] = gzip.compress(sent["content"])
    sent["headers"]["Content-Encoding"] = "gzip"
    assert http.post(f"{V2}/infer", **sent).json()["outputs"][0]["data"] == ["sorrel"]


def test_a_long_body_of_json(http: httpx.Client) -> None:
    request = {
        "inputs": [tensor(np.arange(50_000.0), name="x")],
        "parameters": {"signature": "identity_float32", "timeout": 20_000_000},
    }
    answer = http.post(f"{V2}/infer", json=request).json()
    assert answer["outputs"][0]["data"] == request["inputs"][0]["data"]


def test_bad_images_and_failures(http: httpx.Client) -> None:
    image = {**IMAGE, "shape": [2], "data": ["x", "bad"]}
    response = http.post(f"{V2}/infer", json={"inputs": [image]})
    assert "image 1 of 2 is not a JPEG or PNG" in error_of(response, 415)
    crash = {"inputs": [tensor([1.0])], "parameters": {"signature": "crash"}}
    message = error_of(http.post(f"{V2}/infer", json=crash), 500)
    assert message == "internal error; the server's log has the details"


@pytest.mark.parametrize("length", [0, 65_500], ids=["short", "long"])
@pytest.mark.parametrize(
    ("microseconds", "header"), [(100_000, None), (100_000, "20000"), (20_000_000, "100")]
)
def test_the_sooner_deadline_holds(
    http: httpx.Client, microseconds: int, header: str | None, length: int
) -> None:
    """Long JSON is read behind admission, and so is a deadline in it."""

    def response() -> httpx.Response | None:
        """None while the runs of the cases before this one, which go on, leave no room."""
        response = http.post(f"{V2}/infer", json=request, headers=headers)
        return None if response.status_code == 429 else response

    request = {
        "id": "x" * length,
        "inputs": [tensor([0.6])],
        "parameters": {"signature": "slow", "timeout": microseconds},
    }
    headers = {"X-Request-Timeout-Ms": header} if header else {}
    assert "no answer within 0.1 s" in error_of(wait_until(response), 504)


@pytest.mark.parametrize("microseconds", [0, 20_000_000])
def test_a_deadline_that_is_far_enough(http: httpx.Client, microseconds: int) -> None:
    request = {
        "inputs": [tensor([0.01])],
        "parameters": {"signature": "slow", "timeout": microseconds},
    }
    assert http.post(f"{V2}/infer", json=request).status_code == 200


def test_a_deadline_that_has_passed_starts_nothing(start: Any, model: Any) -> None:
    model.put(1)
    server = start()
    body = {"inputs": [IMAGE], "parameters": {"timeout": 1}}
    assert error_of(server.post(body, f"{V2}/infer"), 504)
    assert model.runs() == ["serving_default"]  # the warm-up's


def test_not_ready_before_the_model_is_loaded(launch: Any, model: Any) -> None:
    model.put(1, load_delay=30)
    server = launch()
    server.wait_listening()
    base = f"http://{server.rest}"
    assert httpx.get(f"{base}/v2/health/live").json() == {"live": True}
    for path in ("/v2/health/ready", f"{V2}/ready", f"{V2}/versions/1/ready", V2):
        assert "is loading" in error_of(httpx.get(base + path), 503)
