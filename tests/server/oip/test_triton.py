"""Triton's own clients, http and gRPC: what the conformance suite does not ask with them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

BOTH = ("http", "grpc")
IMAGES = np.array([b"\xff\xd8\0", b"second"], dtype=object)
DTYPES = {
    "BOOL": np.array([[True], [False]]),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 3], np.int16),
    "INT32": np.array([-(2**31), 3], np.int32),
    "INT64": np.array([-(2**63), 3], np.int64),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "FP16": np.array([0.5, np.nan], np.float16),
    "FP32": np.array([[[0.1, np.inf, np.nan]]], np.float32),
    "FP64": np.array([0.1, -np.inf], np.float64),
    "BYTES": np.array(["é".encode(), b"", "日本".encode()], dtype=object),
}


class Triton:
    """One of the two clients; both have the same methods."""

    def __init__(self, module: Any, address: str) -> None:
        self.module = module
        self.client = module.InferenceServerClient(address)

    def tensor(self, name: str, value: Any, datatype: str, **options: Any) -> Any:
        tensor = self.module.InferInput(name, list(value.shape), datatype)
        tensor.set_data_from_numpy(value, **options)
        return tensor

    def infer(self, *tensors: Any, **options: Any) -> Any:
        return self.client.infer("m", list(tensors), **options)


@pytest.fixture
def triton(server: Any) -> Any:
    with ExitStack() as clients:

        def connect(protocol: str) -> Triton:
            module, address = {
                "http": (over_http, server.rest),
                "grpc": (over_grpc, server.grpc),
            }[protocol]
            found = Triton(module, address)
            clients.callback(found.client.close)
            return found

        yield connect


def test_a_model_that_is_not_there_is_not_ready(triton: Any) -> None:
    assert not triton("http").client.is_model_ready("other")
    assert not triton("grpc").client.is_model_ready("other")


@pytest.mark.parametrize("protocol", BOTH)
def test_another_signature(triton: Any, protocol: str) -> None:
    client = triton(protocol)
    image = client.tensor("image", IMAGES, "BYTES")
    answer = client.infer(image, model_version="7", parameters={"signature": "top_k"})
    assert answer.as_numpy("labels").shape == (2, 5)
    np.testing.assert_array_equal(answer.as_numpy("indices"), [range(5)] * 2)
    assert answer.as_numpy("scores").dtype == np.float32


@pytest.mark.parametrize("protocol", BOTH)
def test_classes(triton: Any, protocol: str) -> None:
    client = triton(protocol)
    wanted = client.module.InferRequestedOutput("output_0", class_count=2)
    answer = client.infer(client.tensor("image", IMAGES, "BYTES"), outputs=[wanted])
    assert answer.as_numpy("output_0").tolist() == [[b"0.5:0:sorrel", b"0.25:1:zebra"]] * 2


def identity(value: Any, datatype: str) -> str:
    return f"identity_{'bytes' if datatype == 'BYTES' else value.dtype.name}"


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("datatype", DTYPES)
def test_every_dtype(triton: Any, protocol: str, datatype: str) -> None:
    client, value = triton(protocol), DTYPES[datatype]
    tensor = client.tensor("x", value, datatype)
    answer = client.infer(tensor, parameters={"signature": identity(value, datatype)})
    np.testing.assert_array_equal(answer.as_numpy("y"), value)


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "FP16"])
def test_every_dtype_in_json(triton: Any, datatype: str) -> None:
    client, value = triton("http"), DTYPES[datatype]
    wanted = over_http.InferRequestedOutput("y", binary_data=False)
    answer = client.infer(
        client.tensor("x", value, datatype, binary_data=False),
        outputs=[wanted],
        parameters={"signature": identity(value, datatype)},
    )
    found = answer.as_numpy("y")
    if datatype == "BYTES":  # JSON has text, and the client leaves it as it is
        value = np.array([item.decode() for item in value.tolist()], dtype=object)
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_an_empty_batch(triton: Any, protocol: str, datatype: str) -> None:
    client, value = triton(protocol), DTYPES[datatype][:0]
    tensor = client.tensor("x", value, datatype)
    answer = client.infer(tensor, parameters={"signature": identity(value, datatype)})
    assert answer.as_numpy("y").shape == value.shape


def test_gzip(triton: Any) -> None:
    client = triton("http")
    image = client.tensor("image", IMAGES, "BYTES")
    answer = client.infer(image, request_compression_algorithm="gzip")
    assert answer.as_numpy("output_0").tolist() == [b"sorrel", b"sorrel"]


@pytest.mark.parametrize("protocol", BOTH)
def test_errors(triton: Any, protocol: str) -> None:
    client = triton(protocol)
    bad = client.tensor("image", np.array([b"bad"], dtype=object), "BYTES")
    with pytest.raises(InferenceServerException, match="image 0 of 1 is not a JPEG") as raised:
        client.infer(bad)
    assert raised.value.status() in ("415", "StatusCode.INVALID_ARGUMENT")
    with pytest.raises(InferenceServerException, match="any versions of model other"):
        client.client.infer("other", [bad])


@pytest.mark.parametrize("protocol", BOTH)
def test_the_parameter_timeout(triton: Any, protocol: str) -> None:
    client = triton(protocol)
    seconds = client.tensor("seconds", np.array([0.5], np.float32), "FP32")
    slow = {"signature": "slow"}
    with pytest.raises(InferenceServerException, match=r"no answer within 0\.1 s") as raised:
        client.infer(seconds, timeout=100_000, parameters=slow)
    assert raised.value.status() in ("504", "StatusCode.DEADLINE_EXCEEDED")
    assert client.infer(seconds, timeout=20_000_000, parameters=slow).as_numpy("done") == [0.5]
