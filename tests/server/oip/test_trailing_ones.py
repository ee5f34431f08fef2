"""Strings of the shape [N,1], as Triton's clients send them, for an input of shape [N]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from mlserve.wire.proto.inference_pb2 import InferTensorContents, ModelInferRequest

FORMS = [("grpc", {}), ("http", {}), ("http", {"binary_data": False})]
SHAPES = [(3,), (3, 1), (3, 1, 1)]


def images(shape: tuple[int, ...]) -> Any:
    return np.array([b"one", b"two", b"three"], object).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("protocol", "options"), FORMS, ids=["grpc raw", "binary", "json"])
def test_ones_at_the_end_of_a_shape_are_left_out(
    server: Any, triton_to: Any, protocol: str, options: Any, shape: tuple[int, ...]
) -> None:
    client = triton_to(server, protocol)
    sent = client.tensor("image", images(shape), **options)
    answer = client.infer("m", [sent])
    assert answer.as_numpy("output_0").tolist() == [b"sorrel"] * 3
    best = client.infer("m", [sent], parameters={"signature": "top_k"})
    assert best.as_numpy("labels").shape == (3, 5)


@pytest.mark.parametrize("shape", SHAPES)
def test_ones_at_the_end_of_a_typed_tensor(server: Any, infer_on: Any, shape: Any) -> None:
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=shape)
    tensor.contents.CopyFrom(InferTensorContents(bytes_contents=[b"1", b"2", b"3"]))
    [output] = infer_on(server, request).result().outputs
    assert list(output.shape) == [3]


@pytest.mark.parametrize("shape", SHAPES)
def test_json_in_lists_of_that_shape(http: Any, shape: tuple[int, ...]) -> None:
    nested = np.array(["one", "two", "three"]).reshape(shape).tolist()
    sent = {"name": "image", "datatype": "BYTES", "shape": shape, "data": nested}
    answer = http.post("/v2/models/m/infer", json={"inputs": [sent]})
    assert answer.json()["outputs"][0]["shape"] == [3]


@pytest.mark.parametrize(("protocol", "options"), FORMS, ids=["grpc raw", "binary", "json"])
def test_a_row_of_strings_is_not_guessed(
    server: Any, triton_to: Any, protocol: str, options: Any
) -> None:
    client = triton_to(server, protocol)
    with pytest.raises(InferenceServerException, match=r"send 3 strings as \[3\] or \[3, 1\]"):
        client.infer("m", [client.tensor("image", images((1, 3)), **options)])


@pytest.mark.parametrize(("protocol", "options"), FORMS, ids=["grpc raw", "binary", "json"])
def test_a_column_of_numbers_is_not_a_vector(
    server: Any, triton_to: Any, protocol: str, options: Any
) -> None:
    """Numbers of another rank may well be another tensor."""
    client = triton_to(server, protocol)
    column = client.tensor("seconds", np.zeros((2, 1), np.float32), **options)
    with pytest.raises(InferenceServerException, match="does not fit seconds"):
        client.infer("m", [column], parameters={"signature": "slow"})


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritons_client_compresses(server: Any, triton_to: Any, algorithm: str) -> None:
    client = triton_to(server, "http")
    image = client.tensor("image", images((3,)))
    answer = client.infer("m", [image], request_compression_algorithm=algorithm)
    assert answer.as_numpy("output_0").tolist() == [b"sorrel"] * 3
