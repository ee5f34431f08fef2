"""What a server takes, by its flags: a limit says which it is when it refuses, and harms nobody."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.settings import DEFAULT_SETTINGS
from mlserve.system import usable_memory
from mlserve.tensors import DType
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from tests.harness.server import serving

pytestmark = pytest.mark.server

PREDICT = "/v1/models/m:predict"
INFER = "/v2/models/m/infer"
FLAGS = (
    "--max-request-bytes=100000",
    "--max-pixels=1000",
    "--max-batch-length=4",
    "--max-json-depth=8",
    "--default-timeout=12.5",
)


def png_of(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def tensor(*data: str, **more: Any) -> dict[str, Any]:
    values = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return {"inputs": [{**values, **more}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serving(tmp_path_factory.mktemp("limits"), *FLAGS) as server:
        yield server


@pytest.fixture(autouse=True)
def good_request_after(http: httpx.Client, server: Any) -> Iterator[None]:
    """After each test a good request is answered, and nothing broke in the server."""
    yield
    assert http.post(PREDICT, json={"inputs": ["x"]}).json() == {"outputs": ["sorrel"]}
    assert "Traceback" not in server.log()
    assert " ERROR " not in server.log()


def images(request_of: Any, *items: bytes) -> Any:
    array = np.array([*items, None], dtype=object)[:-1]
    return request_of(image=(array, DType.BYTES))


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    error = call.exception()
    assert isinstance(error, grpc.RpcError), call.result()
    return error.code(), error.details()


class TestBytes:
    def test_a_length_above_the_limit_is_refused_before_the_body(self, server: Any) -> None:
        """Nothing of the body is sent, and the answer is there all the same, and then the end."""
        for path in (PREDICT, INFER):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n"
            with connection(server) as client:
                client.sendall(head.encode())
                answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"\r\nconnection: close\r\n" in answer.lower()
            assert b"100001 bytes; this server takes at most 100000 (--max-request-bytes)" in answer

    def test_no_100_continue_for_it(self, server: Any) -> None:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        with connection(server) as client:
            client.sendall(f"{head}Content-Length: {10**15}\r\n\r\n".encode())
            assert read_all(client).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("path", [PREDICT, INFER])
    def test_a_client_that_sends_it_all_the_same_reads_why(
        self, http: httpx.Client, path: str
    ) -> None:
        response = http.post(path, content=b" " * 20_000_000)
        assert response.status_code == 413
        assert "--max-request-bytes" in response.json()["error"]

    @pytest.mark.parametrize("path", [PREDICT, INFER])
    def test_chunks_that_add_up_to_more(self, http: httpx.Client, path: str) -> None:
        response = http.post(path, content=(b" " * 1000 for _ in range(1000)))
        assert response.status_code == 413
        assert "more than 100000 bytes" in response.json()["error"]

    @pytest.mark.parametrize("path", [PREDICT, INFER])
    def test_gzip_of_more(self, http: httpx.Client, path: str) -> None:
        body = gzip.compress(b" " * 10_000_000)
        response = http.post(path, content=body, headers={"Content-Encoding": "gzip"})
        assert response.status_code == 413
        assert "when decompressed" in response.json()["error"]
        assert "--max-request-bytes" in response.json()["error"]

    def test_a_grpc_message_of_more(self, server: Any, predict_on: Any, request_of: Any) -> None:
        """The text is gRPC's own, and names the two numbers."""
        call = predict_on(server, images(request_of, bytes(100_001)))
        code, text = refusal(call)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert re.search(r"larger than max \(1000\d\d vs\. 100000\)", text)

    def test_as_many_bytes_as_allowed(self, http: httpx.Client) -> None:
        body = json.dumps({"inputs": ["x"]}).ljust(100_000).encode()
        assert http.post(PREDICT, content=body).status_code == 200


class TestPixels:
    """No backend has to know of it: echo decodes nothing."""

    TEXT = (
        "image 1 of 2 is too large (50000x40000, at most 1000 pixels), which is the "
        "--max-pixels of this server"
    )
    PAIR = (png_of(10, 100), png_of(50000, 40000))

    def test_tfs_rest(self, http: httpx.Client) -> None:
        response = http.post(PREDICT, json={"instances": [b64(item) for item in self.PAIR]})
        assert (response.status_code, response.json()["error"]) == (413, self.TEXT)

    def test_oip_rest(self, http: httpx.Client) -> None:
        response = http.post(INFER, json=tensor(*(b64(item)["b64"] for item in self.PAIR)))
        assert (response.status_code, response.json()["error"]) == (413, self.TEXT)

    def test_oip_rest_of_a_raw_body(self, http: httpx.Client) -> None:
        headers = {"Inference-Header-Content-Length": "0"}
        response = http.post(INFER, content=self.PAIR[1], headers=headers)
        assert response.status_code == 413
        assert response.json()["error"].startswith("the image is too large (50000x40000, ")

    def test_tfs_grpc(self, server: Any, predict_on: Any, request_of: Any) -> None:
        call = predict_on(server, images(request_of, *self.PAIR))
        assert refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, self.TEXT)

    def test_oip_grpc(self, server: Any, infer_on: Any) -> None:
        request = ModelInferRequest(model_name="m")
        sent = request.inputs.add(name="image", datatype="BYTES", shape=[2])
        sent.contents.bytes_contents.extend(self.PAIR)
        code, text = refusal(infer_on(server, request))
        assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, self.TEXT)


class TestBatchLength:
    TEXT = (
        "input 'image' has a first dimension of 5; this server takes at most 4 (--max-batch-length)"
    )

    @pytest.mark.parametrize("body", [{"instances": ["x"] * 5}, {"inputs": ["x"] * 5}])
    def test_tfs_rest(self, http: httpx.Client, body: Any) -> None:
        response = http.post(PREDICT, json=body)
        assert (response.status_code, response.json()["error"]) == (413, self.TEXT)

    def test_oip_rest(self, http: httpx.Client) -> None:
        response = http.post(INFER, json=tensor(*["x"] * 5))
        assert (response.status_code, response.json()["error"]) == (413, self.TEXT)

    def test_tfs_grpc(self, server: Any, predict_on: Any, request_of: Any) -> None:
        call = predict_on(server, images(request_of, *[b"x"] * 5))
        assert refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, self.TEXT)

    def test_a_value_repeated_is_refused_before_it_is(
        self, server: Any, predict_on: Any, request_of: Any
    ) -> None:
        request = request_of("two", a=(np.zeros(1, np.float32), DType.FLOAT32))
        request.inputs["b"].CopyFrom(request.inputs["a"])
        for name in "ab":
            request.inputs[name].tensor_shape.dim[0].size = 10**15
        assert "first dimension of 1000000000000000" in refusal(predict_on(server, request))[1]

    def test_as_many_as_allowed(self, http: httpx.Client) -> None:
        assert http.post(PREDICT, json={"instances": ["x"] * 4}).status_code == 200
        assert http.post(INFER, json=tensor(*["x"] * 4)).status_code == 200


class TestJson:
    @pytest.mark.parametrize("path", [PREDICT, INFER])
    @pytest.mark.parametrize("opening", ["[", '{"a":', '["]",'])
    def test_too_deep(self, http: httpx.Client, path: str, opening: str) -> None:
        response = http.post(path, content='{"inputs": ' + opening * 8)
        assert response.status_code == 400
        assert "deeper than 8 levels" in response.json()["error"]
        assert "--max-json-depth" in response.json()["error"]

    @pytest.mark.parametrize("path", [PREDICT, INFER])
    @pytest.mark.parametrize(
        "value",
        ["9" * 90_000, "-" + "9" * 90_000, "1e" + "9" * 90_000, "0." + "1" * 90_000, "[" * 90_000],
        ids=["int", "negative", "exponent", "fraction", "brackets"],
    )
    def test_hostile_values(self, http: httpx.Client, path: str, value: str) -> None:
        body = (
            f'{{"inputs": [{{"name": "x", "shape": [1], "datatype": "FP64", "data": [{value}]}}]}}'
        )
        if path == PREDICT:
            body = f'{{"signature_name": "identity_float64", "inputs": [{value}]}}'
        assert http.post(path, content=body).status_code in (200, 400)

    @pytest.mark.parametrize("path", [PREDICT, INFER])
    def test_one_key_many_times(self, http: httpx.Client, path: str) -> None:
        body = "{" + '"a": 1,' * 12_000 + '"inputs": 3}'
        assert http.post(path, content=body).status_code == 400


WANTED = {
    "max_request_bytes": 100000,
    "max_pixels": 1000,
    "max_batch_length": 4,
    "max_json_depth": 8,
    "default_timeout": 12.5,
    "max_connections": DEFAULT_SETTINGS.max_connections,
    "header_timeout": DEFAULT_SETTINGS.header_timeout,
}


class TestShown:
    @pytest.mark.parametrize("path", ["/v2", "/v2/models/m"])
    def test_oip_rest(self, http: httpx.Client, path: str) -> None:
        shown = http.get(path).json()["parameters"]
        assert {name: shown[name] for name in WANTED} == WANTED
        assert shown["max_queue"] is None
        assert shown["max_queue_bytes"] == usable_memory() // 8

    @pytest.mark.parametrize("method", ["ServerMetadata", "ModelMetadata"])
    def test_oip_grpc(self, server: Any, channel_to: Any, method: str) -> None:
        call = channel_to(server).unary_unary(f"/inference.GRPCInferenceService/{method}")
        request = b"" if method == "ServerMetadata" else b"\x0a\x01m"
        _, done = call.with_call(request, timeout=20)
        shown = json.loads(dict(done.initial_metadata())["mlserve-limits"])
        assert {name: shown[name] for name in WANTED} == WANTED

    def test_the_log(self, server: Any) -> None:
        assert re.search(
            r" INFO limits: .*default_timeout=12\.5 .*max_request_bytes=100000 .*max_pixels=1000 ",
            server.log(),
        )


def connection(server: Any) -> socket.socket:
    host, port = server.rest.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)
