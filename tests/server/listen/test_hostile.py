"""Callers who mean harm: what they send costs little, and little of it is repeated."""

from __future__ import annotations

import json
import socket
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest

pytestmark = pytest.mark.server

TOKEN = "a-token-of-the-tests"
IMAGE = np.array([b"x"], object), DType.BYTES


@pytest.fixture
def guarded(model: Any, launch: Any, tmp_path: Any) -> Any:
    model.put(1)
    (tmp_path / "token").write_text(TOKEN)
    server = launch("--token-file", str(tmp_path / "token"))
    server.wait_listening()
    wait_until(lambda: httpx.get(f"http://{server.rest}/v2/health/ready").status_code == 200)
    return server


def test_a_long_name_is_cut_in_the_answer_and_in_the_log(
    server: Any, predict_on: Any, request_of: Any
) -> None:
    over_grpc = predict_on(server, request_of("n" * 60_000, image=IMAGE)).exception()
    over_rest = server.post({"signature_name": "n" * 4_000_000, "inputs": ["x"]})
    for text in (over_grpc.details(), over_rest.json()["error"]):
        assert f'"{"n" * 200}..." not found' in text
        assert "here are: " in text
        assert len(text) < 1200
    assert max(map(len, server.log().splitlines())) < 5000


def test_a_long_name_of_a_model_is_cut_too(server: Any, channel_to: Any) -> None:
    method = channel_to(server).unary_unary(
        "/tensorflow.serving.ModelService/GetModelStatus",
        request_serializer=GetModelStatusRequest.SerializeToString,
    )
    request = GetModelStatusRequest()
    request.model_spec.name = "m" * 60_000
    error = method.future(request, timeout=20).exception()
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == f"Could not find any versions of model {'m' * 200}..."
    assert max(map(len, server.log().splitlines())) < 5000


def test_many_wrong_names_are_counted_not_listed(server: Any) -> None:
    inputs = {"image": ["x"], **{f"extra{number:06}": [1] for number in range(50_000)}}
    answer = server.post({"instances": [inputs]})
    assert answer.status_code == 400
    assert "extra000009 and 49990 more}" in answer.json()["error"]


HALF = '"\\ud800"'
"""Half of a pair that only together is a character: JSON can say it, and nothing can encode it."""
INPUT = '"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}]'


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("v2/models/m/infer", f'{{"id": {HALF}, {INPUT}}}', 400),
        ("v2/models/m/infer", f"{{{HALF}: 1, {INPUT}}}", 200),
        ("v2/models/m/infer", f'{{"parameters": {{{HALF}: 1}}, {INPUT}}}', 200),
        ("v2/models/m/infer", f'{{"parameters": {{"signature": {HALF}}}, {INPUT}}}', 404),
        ("v2/models/m/infer", f'{{"parameters": {{"timeout": {HALF}}}, {INPUT}}}', 400),
        ("v2/models/m/infer", f'{{"outputs": [{{"name": {HALF}}}], {INPUT}}}', 400),
        ("v2/models/m/infer", f"{{{INPUT.replace(chr(34) + 'BYTES' + chr(34), HALF)}}}", 400),
        ("v2/models/m/infer", f"{{{INPUT.replace(chr(34) + 'image' + chr(34), HALF)}}}", 400),
        ("v2/repository/models/m/load", f'{{"parameters": {{{HALF}: 1}}}}', 400),
        ("v2/repository/index", f'{{"ready": {HALF}}}', 400),
        ("v1/models/m:predict", f'{{"signature_name": {HALF}, "inputs": ["x"]}}', 400),
        ("v1/models/m:predict", f'{{{HALF}: 1, "instances": ["x"]}}', 200),
        ("v1/models/m:predict", f'{{"instances": [{{{HALF}: 1}}]}}', 400),
        ("v1/models/m:predict", f'{{"instances": [{{"b64": {HALF}}}]}}', 400),
    ],
)
def test_half_a_character_anywhere(server: Any, path: str, body: str, status: int) -> None:
    answer = httpx.post(f"http://{server.rest}/{path}", content=body, timeout=20)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in server.log()


def test_an_id_of_many_bytes_is_not_sent_back(server: Any) -> None:
    body = f'{{"id": "{"i" * 100_000}", {INPUT}}}'
    answer = httpx.post(f"http://{server.rest}/v2/models/m/infer", content=body, timeout=20)
    assert answer.status_code == 413
    assert answer.json()["error"] == "'id' has 100000 bytes; a request may have 65536 there"


@pytest.mark.parametrize("order", [(TOKEN, "wrong"), ("wrong", TOKEN), (TOKEN, TOKEN)])
def test_two_authorizations_are_refused_over_rest(guarded: Any, order: tuple[str, ...]) -> None:
    """A proxy in front may have checked the other one."""
    host, port = guarded.rest.rsplit(":", 1)
    headers = "".join(f"Authorization: Bearer {token}\r\n" for token in order)
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(
            f"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode()
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body == {"error": "the request has 2 Authorization headers"}


def test_two_authorizations_are_refused_over_grpc(guarded: Any, channel_to: Any) -> None:
    method = channel_to(guarded).unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
    request = GetModelStatusRequest()
    request.model_spec.name = "m"

    def call(*tokens: str) -> Any:
        metadata = [("authorization", f"Bearer {token}") for token in tokens]
        return method.future(request.SerializeToString(), metadata=metadata, timeout=20)

    assert call(TOKEN).result()
    for order in ((TOKEN, "wrong"), ("wrong", TOKEN)):
        assert call(*order).exception().code() is grpc.StatusCode.UNAUTHENTICATED
