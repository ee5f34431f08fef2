"""What the Open Inference Protocol's REST API refuses, and how it says so."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

V2 = "/v2/models/m"
LENGTH = "Inference-Header-Content-Length"
IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}


def error_of(response: httpx.Response, status: int) -> str:
    """The message of an error, which has the one shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    message: str = response.json()["error"]
    return message


@pytest.mark.parametrize(
    ("outputs", "signature", "status", "message"),
    [
        ([("output_0", 6)], "", 400, "6 classes are asked for, and the model gives its 5 best"),
        ([("output_0", -1)], "", 400, "a whole number of at least 0, not -1"),
        ([("output_0", True)], "", 400, "a whole number of at least 0, not True"),
        ([("output_0", 1), ("output_0", 1)], "", 400, "asked for twice"),
        ([("label", 1)], "", 400, "has no output 'label'"),
        ([("labels", 0)], "", 400, "'serving_default' has no output 'labels'"),
        ([("sum", 1)], "two", 404, "the model has none for the inputs of 'two'"),
    ],
)
def test_outputs_that_are_refused(
    http: httpx.Client, outputs: Any, signature: str, status: int, message: str
) -> None:
    number = {"shape": [1], "datatype": "FP32", "data": [1.0]}
    inputs = [{"name": name, **number} for name in "ab"] if signature else [IMAGE]
    request = {
        "inputs": inputs,
        "parameters": {"signature": signature},
        "outputs": [{"name": n, "parameters": {"classification": k}} for n, k in outputs],
    }
    assert message in error_of(http.post(f"{V2}/infer", json=request), status)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models/other", 404, "Could not find any versions of model other"),
        ("GET", "/v2/models/other/ready", 404, "Could not find any versions of model other"),
        ("POST", "/v2/models/other/infer", 404, "Could not find any versions of model other"),
        ("GET", f"{V2}/versions/8/ready", 404, "Could not find version 8 of model m"),
        ("GET", f"{V2}/versions/8", 404, "version 8 of m; served: 7"),
        ("POST", f"{V2}/versions/8/infer", 404, "version 8 of m; served: 7"),
        ("GET", f"{V2}/versions/v1", 404, "'v1' of model m: versions are numbers"),
        ("GET", f"{V2}/versions/%C2%B2", 404, "versions are numbers"),
        ("GET", "/v2/models", 404, "Malformed request"),
        ("GET", f"{V2}/trace", 404, "Malformed request"),
        ("GET", f"{V2}/infer", 405, "Method GET is not allowed"),
        ("POST", V2, 405, "Method POST is not allowed"),
        ("POST", "/v2", 405, "Method POST is not allowed"),
    ],
)
def test_paths_that_are_not_served(
    http: httpx.Client, method: str, path: str, status: int, message: str
) -> None:
    body = json.dumps({"inputs": [IMAGE]}) if method == "POST" else None
    response = http.request(method, path, content=body)
    assert message in error_of(response, status)
    if status == 405:
        assert response.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b'{"inputs": []} x', "JSON Parse error: The document root must not"),
        (b"[]", "not an object"),
        (b"\xff{}", "not UTF-8"),
        (b"{}", "'inputs' must be a list of objects"),
        (b'{"inputs": [1]}', "'inputs' must be a list of objects"),
        (b'{"inputs": [{}]}', "each of 'inputs' must have a 'name'"),
        (b'{"id": 5, "inputs": []}', "'id' must be a string"),
        (b'{"inputs": []}', "Missing but required: {image}"),
        (b'{"inputs": [], "outputs": [{}]}', "each of 'outputs' must have a 'name'"),
        (b'{"inputs": [], "parameters": 1}', "the parameters of the request must be an object"),
        (b'{"inputs": [], "parameters": {"signature": 1}}', "'signature' must be a string"),
        (b'{"inputs": [], "parameters": {"timeout": 0.5}}', "'timeout' must be a whole number"),
        (b'{"inputs": [], "parameters": {"binary_data_output": 1}}', "must be a boolean"),
    ],
)
def test_bodies_that_are_refused(http: httpx.Client, body: bytes, message: str) -> None:
    assert message in error_of(http.post(f"{V2}/infer", content=body), 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "must have a 'shape', a list of integers"),
        ({"shape": [True]}, "must have a 'shape', a list of integers"),
        ({"shape": [-1]}, "each of at least 0"),
        ({"shape": [2**63]}, "each of at least 0 and at most"),
        ({"shape": [1] * 33}, "at most 32 sizes"),
        ({"shape": [1, 2]}, "does not fit image: bytes[?]: send 2 strings as [2] or [2, 1]"),
        ({"shape": [2, 2]}, "does not fit image: bytes[?]"),
        ({"shape": []}, "does not fit image: bytes[?]"),
        ({"shape": [2]}, "is a list of 1; its shape [2] takes a list of 2 values"),
        ({"datatype": None}, "must have a 'datatype', a string"),
        ({"datatype": "STRING"}, "input 'image' is STRING, not BYTES"),
        ({"name": "imag"}, "did you mean 'image' for 'imag'"),
        ({"parameters": {"binary_data_size": 0}}, "exactly one of 'data' and the parameter"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not supported"),
    ],
)
def test_inputs_that_are_refused(http: httpx.Client, change: Any, message: str) -> None:
    response = http.post(f"{V2}/infer", json={"inputs": [{**IMAGE, **change}]})
    assert message in error_of(response, 400)


def test_an_input_that_is_sent_twice(http: httpx.Client) -> None:
    response = http.post(f"{V2}/infer", json={"inputs": [IMAGE, IMAGE]})
    assert "sent twice" in error_of(response, 400)


def test_an_input_without_data(http: httpx.Client) -> None:
    item = {key: value for key, value in IMAGE.items() if key != "data"}
    response = http.post(f"{V2}/infer", json={"inputs": [item]})
    assert "exactly one of 'data'" in error_of(response, 400)


@pytest.mark.parametrize(
    ("size", "tail", "message"),
    [
        (5, b"\1\0\0\0", "binary_data_size 5, and 4 bytes are left"),
        (4, b"\0\0\0\0!", "1 bytes behind the JSON belong to no input"),
        (4, b"\1\0\0\0", "ends early: at byte 4, a string of 1 bytes is expected"),
        (-1, b"", "a whole number of at least 0, not -1"),
        (2**70, b"", "0 bytes are left"),
    ],
)
def test_binary_tensors_that_are_refused(
    http: httpx.Client, size: int, tail: bytes, message: str
) -> None:
    item = {"name": "image", "shape": [1], "datatype": "BYTES"}
    request = {"inputs": [{**item, "parameters": {"binary_data_size": size}}]}
    head = json.dumps(request).encode()
    response = http.post(f"{V2}/infer", content=head + tail, headers={LENGTH: str(len(head))})
    assert message in error_of(response, 400)


@pytest.mark.parametrize("length", ["-1", "x", "5.0", "", "9999999", "9" * 5000, "+2"])
def test_a_length_of_the_json_that_is_none(http: httpx.Client, length: str) -> None:
    body = json.dumps({"inputs": [IMAGE]}).encode()
    response = http.post(f"{V2}/infer", content=body, headers={LENGTH: length})
    assert f"{LENGTH} must be the length of the JSON" in error_of(response, 400)
