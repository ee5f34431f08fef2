"""TensorFlow Serving's REST API of a real server, spoken raw over HTTP."""

from __future__ import annotations

import base64
import gzip
import socket
import zlib
from typing import Any

import httpx
import pytest

from mlserve.testing.processes import wait_until

V1 = "/v1/models/m"


@pytest.fixture
def http(server: Any) -> Any:
    with httpx.Client(base_url=f"http://{server.rest}", timeout=20) as client:
        yield client


def error_of(response: httpx.Response, status: int) -> str:
    """The message of an error, which has the one shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    message: str = body["error"]
    return message


def test_the_label_in_columns(http: httpx.Client) -> None:
    response = http.post(f"{V1}:predict", json={"inputs": {"image": ["aGk="]}})
    assert response.text == '{"outputs": ["sorrel"]}'
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-mlserve-model-version"] == "7"
    assert "x-mlserve-random-weights" not in response.headers


def test_the_label_in_rows(http: httpx.Client) -> None:
    image = {"b64": base64.b64encode(b"\xff\xd8").decode()}
    response = http.post(f"{V1}:predict", json={"instances": [{"image": image}, {"image": image}]})
    assert response.text == '{"predictions": ["sorrel", "sorrel"]}'


def test_several_outputs_in_rows(http: httpx.Client) -> None:
    body = {"signature_name": "two", "instances": [{"a": 2, "b": 3}, {"a": 0.1, "b": 1}]}
    response = http.post(f"{V1}:predict", json=body)
    assert response.json() == {
        "predictions": [{"sum": 5.0, "product": 6.0}, {"sum": 1.1, "product": 0.1}]
    }


@pytest.mark.parametrize(
    "path", [f"{V1}/versions/7:predict", "/V1/Models/m:PREDICT", "/v1/models/%6d:predict"]
)
def test_other_ways_to_write_the_path(http: httpx.Client, path: str) -> None:
    assert http.post(path, json={"inputs": ["x"]}).json() == {"outputs": ["sorrel"]}


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_more_examples_than_a_batch_may_have(http: httpx.Client, verb: str) -> None:
    response = http.post(f"{V1}:{verb}", json={"examples": [{}] * 1025})
    assert "more than 1024 examples" in error_of(response, 413)


@pytest.mark.parametrize("path", [V1, f"{V1}/versions/7", f"{V1}/"])
def test_status(http: httpx.Client, path: str) -> None:
    assert http.get(path).json() == {
        "model_version_status": [
            {
                "version": "7",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_metadata(http: httpx.Client) -> None:
    answer = http.get(f"{V1}/metadata").json()
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "7"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"] == {
        "inputs": {
            "image": {
                "dtype": "DT_STRING",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "image",
            }
        },
        "outputs": {
            "output_0": {
                "dtype": "DT_STRING",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "output_0",
            }
        },
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert signatures["identity_int8"]["inputs"]["x"]["tensor_shape"]["unknown_rank"] is True


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/models/other", 404, "Could not find any versions of model other"),
        ("POST", "/v1/models/other:predict", 404, "Servable not found for request: Latest(other)"),
        ("GET", f"{V1}/versions/8", 404, "Could not find version 8 of model m"),
        ("POST", f"{V1}/versions/8:predict", 404, "Servable not found for request: Specific(m, 8)"),
        ("GET", f"{V1}/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("POST", f"{V1}/labels/stable:predict", 400, "Unrecognized servable version label"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/nothing", 404, "Malformed request: GET /nothing"),
        ("GET", f"{V1}/versions/x", 404, "Malformed request"),
        ("POST", f"{V1}:explain", 404, "Malformed request"),
        ("POST", f"{V1}:classify", 400, "key 'examples' is expected and was not found"),
        ("POST", f"{V1}:regress", 400, "key 'examples' is expected and was not found"),
        ("GET", f"{V1}:predict", 405, "Method GET is not allowed"),
        ("DELETE", V1, 405, "Method DELETE is not allowed"),
    ],
)
def test_paths_that_are_not_served(
    http: httpx.Client, method: str, path: str, status: int, message: str
) -> None:
    body = b'{"inputs": ["x"]}' if method == "POST" else None
    response = http.request(method, path, content=body)
    assert message in error_of(response, status)
    if status == 405:
        assert response.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "JSON Parse error: The document is empty"),
        (b'{"inputs":\n [1,}', 400, "line 2 column 5"),
        (b"\xff\xfe{}", 400, "not UTF-8"),
        (b"[]", 400, "not an object"),
        (b"[" * 100_000, 400, "JSON Parse error"),
        (b'{"inputs": ["x"], "signature_name": 5}', 400, "must be a string value"),
        (b'{"inputs": ["x"], "signature_name": "top"}', 400, "did you mean 'top_k' for 'top'"),
        (b'{"inputs": {"imag": ["x"]}}', 400, "did you mean 'image' for 'imag'"),
        (b'{"inputs": {"\\ud800": ["x"]}}', 400, "Missing named input: image"),
        (b'{"inputs": ["\\ud800"]}', 400, "half a character"),
        (b'{"inputs": ["x", "bad"]}', 400, "NotAnImage"),
    ],
)
def test_bodies_that_are_refused(
    http: httpx.Client, body: bytes, status: int, message: str
) -> None:
    if message == "NotAnImage":
        status, message = 415, "image 1 of 2 is not a JPEG or PNG"
    assert message in error_of(http.post(f"{V1}:predict", content=body), status)


def test_what_nobody_expected_tells_nothing(http: httpx.Client, server: Any) -> None:
    body = {"inputs": [1.0], "signature_name": "crash"}
    message = error_of(http.post(f"{V1}:predict", json=body), 500)
    assert message == "internal error; the server's log has the details"
    wait_until(lambda: "a secret of the server" in server.log())  # a thread of its own writes it


@pytest.mark.parametrize("has_head", [True, False], ids=["zlib", "raw"])
def test_a_deflate_body(http: httpx.Client, has_head: bool) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
    body = packer.compress(b'{"inputs": ["x"]}') + packer.flush()
    response = http.post(f"{V1}:predict", content=body, headers={"Content-Encoding": "deflate"})
    assert response.json() == {"outputs": ["sorrel"]}


def test_a_gzip_body(http: httpx.Client) -> None:
    halves = [gzip.compress(part) for part in (b'{"inputs"', b': ["x"]}')]
    for body in (gzip.compress(b'{"inputs": ["x"]}'), b"".join(halves)):
        response = http.post(f"{V1}:predict", content=body, headers={"Content-Encoding": "gzip"})
        assert response.json() == {"outputs": ["sorrel"]}


@pytest.mark.parametrize(
    ("body", "encoding", "status", "message"),
    [
        (b"{}", "gzip", 400, "not valid gzip"),
        (gzip.compress(b'{"inputs": ["x"]}', mtime=0)[:-3], "gzip", 400, "ends early"),
        (b"{}", "br", 400, "'br' is not supported"),
        (gzip.compress(bytes(70 * 2**20), mtime=0), "gzip", 413, "when decompressed"),
        (b"{}", "deflate", 400, "not valid deflate"),
        (b"", "deflate", 400, "ends early"),
        (zlib.compress(b'{"inputs": ["x"]}')[:-3], "deflate", 400, "ends early"),
        (zlib.compress(b'{"inputs": ["x"]}') + b"!", "deflate", 400, "data follows"),
        (zlib.compress(bytes(70 * 2**20)), "deflate", 413, "when decompressed"),
    ],
)
def test_encoded_bodies_that_are_refused(
    http: httpx.Client, body: bytes, encoding: str, status: int, message: str
) -> None:
    headers = {"Content-Encoding": encoding}
    assert message in error_of(http.post(f"{V1}:predict", content=body, headers=headers), status)


def connect(server: Any) -> socket.socket:
    host, port = server.rest.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def test_a_body_that_says_it_is_too_large_is_refused_unread(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n")
        connection.sendall(b"Content-Length: 70000000\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_grows_too_large_is_refused(http: httpx.Client) -> None:
    chunks = (bytes(2**20) for _ in range(80))
    try:
        response = http.post(f"{V1}:predict", content=chunks)
    except httpx.WriteError:
        return  # refused and closed before the answer was read
    assert "takes at most 67108864 (--max-request-bytes)" in error_of(response, 413)


def test_bytes_that_are_not_http(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("name", ["X-Request-Timeout-Ms", "x-envoy-expected-rq-timeout-ms"])
def test_the_deadline_of_a_header(http: httpx.Client, name: str) -> None:
    body = {"inputs": [0.6], "signature_name": "slow"}
    message = error_of(http.post(f"{V1}:predict", json=body, headers={name: "100"}), 504)
    assert "no answer within 0.1 s (the deadline passed while running the model)" in message
    assert http.post(f"{V1}:predict", json=body, headers={name: "20000"}).status_code == 200


def test_a_deadline_that_has_passed_already(http: httpx.Client) -> None:
    headers = {"X-Request-Timeout-Ms": "0"}
    response = http.post(f"{V1}:predict", json={"inputs": ["x"]}, headers=headers)
    assert "no answer within 0 ms" in error_of(response, 504)


@pytest.mark.parametrize("value", ["-1", "1.5", "soon", "nan", "", "9" * 400])
def test_a_deadline_that_is_no_number(http: httpx.Client, value: str) -> None:
    headers = {"X-Request-Timeout-Ms": value}
    response = http.post(f"{V1}:predict", json={"inputs": ["x"]}, headers=headers)
    assert "must be a whole number of milliseconds" in error_of(response, 400)


def test_the_deadline_covers_a_body_that_drips(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n")
        connection.sendall(b"X-Request-Timeout-Ms: 1000\r\nContent-Length: 100\r\n\r\n{")
        answer = b""
        while not answer.endswith(b"}"):
            part = connection.recv(1000)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"the request's body was still arriving" in answer


def test_many_requests_on_one_connection(http: httpx.Client) -> None:
    answers = [http.post(f"{V1}:predict", json={"inputs": [str(n)] * n}) for n in range(1, 20)]
    assert [len(answer.json()["outputs"]) for answer in answers] == list(range(1, 20))
