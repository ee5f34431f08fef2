"""Which signature an Open Inference request runs, and what a raw body becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.errors import InvalidInput, NotFound
from mlserve.server.oip.parameters import Parameters
from mlserve.server.oip.request import InferRequest, default_signature
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType, Signature, TensorSpec


def model(*inputs: TensorSpec, name: str = "serving_default") -> dict[str, Signature]:
    return {name: Signature(name, inputs, (TensorSpec("y", DType.FLOAT32, (None,)),))}


def spec(dtype: DType, shape: Any, name: str = "x") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def raw(body: bytes) -> InferRequest:
    return InferRequest("", Parameters(), (), (), is_binary=True, raw_body=body)


@pytest.mark.parametrize(
    ("dtype", "shape", "body", "value"),
    [
        (DType.BYTES, (None,), b"\xff\xd8", np.array([b"\xff\xd8"], object)),
        (DType.BYTES, (None,), b"", np.array([b""], object)),
        (DType.BYTES, (None, 1), b"x", np.array([[b"x"]], object)),
        (DType.BYTES, None, b"x", np.array([b"x"], object)),
        (DType.BYTES, (), b"x", np.array(b"x", object)),
        (DType.UINT8, (None, 2), b"\1\2\3\4", np.array([[1, 2], [3, 4]], np.uint8)),
        (DType.FLOAT32, None, b"\0\0\x80\x3f", np.array([1], np.float32)),
        (DType.FLOAT32, (None, 4), b"", np.empty((0, 4), np.float32)),
        (DType.INT16, (1,), b"\1\0", np.array([1], np.int16)),
    ],
)
def test_a_raw_body_is_the_only_input(dtype: DType, shape: Any, body: bytes, value: Any) -> None:
    _, inputs = raw(body).decode(model(spec(dtype, shape)), DEFAULT_SETTINGS)
    assert inputs["x"].shape == value.shape
    assert inputs["x"].dtype == value.dtype
    assert inputs["x"].tolist() == value.tolist()


@pytest.mark.parametrize(
    ("inputs", "body", "message"),
    [
        ((spec(DType.UINT8, (None,)), spec(DType.UINT8, (None,), "z")), b"", "has 2 inputs"),
        ((spec(DType.UINT8, (None, None)),), b"", "cannot say the shape"),
        ((spec(DType.UINT8, (None, 2)),), b"\1\2\3", "input 'x' has 3 bytes of data"),
        ((spec(DType.INT16, (None,)),), b"\1\2\3", "input 'x' has 3 bytes of data"),
        ((spec(DType.INT16, (3,)),), b"\1\2", "input 'x' has 2 bytes of data"),
        ((spec(DType.UINT8, (None, 0)),), b"\1", "input 'x' has 1 bytes of data"),
        ((spec(DType.BYTES, (2,)),), b"x", "does not fit x: bytes[2]"),
        ((spec(DType.COMPLEX64, (None,)),), b"x", "no type for"),
    ],
)
def test_a_raw_body_that_is_refused(inputs: Any, body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        raw(body).decode(model(*inputs), DEFAULT_SETTINGS)
    assert message in raised.value.message


def test_the_default_signature() -> None:
    image = spec(DType.BYTES, (None,))
    ours, only, other = model(image), model(image, name="only"), model(image, name="other")
    assert default_signature({**other, **ours}).name == "serving_default"
    assert default_signature(only).name == "only"
    with pytest.raises(NotFound, match="there are: only, other"):
        default_signature({**other, **only})
