"""Typed contents, the values of a tensor in a field of its own type, to numpy and back."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253

from mlserve.errors import InvalidInput
from mlserve.server.dtypes import NUMPY, Array
from mlserve.server.oip.binary import byte_strings
from mlserve.server.tfs.tensor_proto import narrow
from mlserve.server.wire_numbers import numbers
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.proto.inference_pb2 import InferTensorContents

RAW_ONLY = (DType.FLOAT16, DType.BFLOAT16)
"""The types without a field, and without a form in JSON: raw bytes are the only way."""

_FIELDS = {
    DType.BOOL: "bool_contents",
    DType.INT8: "int_contents",
    DType.INT16: "int_contents",
    DType.INT32: "int_contents",
    DType.INT64: "int64_contents",
    DType.UINT8: "uint_contents",
    DType.UINT16: "uint_contents",
    DType.UINT32: "uint_contents",
    DType.UINT64: "uint64_contents",
    DType.FLOAT32: "fp32_contents",
    DType.FLOAT64: "fp64_contents",
    DType.BYTES: "bytes_contents",
}
_NARROWED = ("int_contents", "uint_contents")


def from_contents(spec: TensorSpec, count: int, contents: InferTensorContents) -> Array:
    """The `count` values in the field of the spec's dtype, flat.

    Raises InvalidInput naming the input when there are more or fewer, or values elsewhere.
    """
    if spec.dtype in RAW_ONLY:
        raise InvalidInput(
            f"input '{spec.name}' is {spec.dtype.oip_name}, which goes into raw_input_contents only"
        )
    field = _FIELDS[spec.dtype]
    others = [other.name for other, _ in contents.ListFields() if other.name != field]
    if others:
        raise InvalidInput(
            f"input '{spec.name}' has values in {', '.join(others)}; "
            f"{spec.dtype.oip_name} goes into {field}"
        )
    values = getattr(contents, field)
    if len(values) != count:
        raise InvalidInput(
            f"input '{spec.name}' has {len(values)} values in {field}; its shape takes {count}"
        )
    return _parse(spec, field, contents)


def to_contents(spec: TensorSpec, value: Array) -> InferTensorContents:
    """The values of the array in the field of the spec's dtype, which is not one of RAW_ONLY."""
    values: Any
    values = byte_strings(value) if spec.dtype is DType.BYTES else value.reshape(-1).tolist()
    return InferTensorContents(**{_FIELDS[spec.dtype]: values})


def _parse(spec: TensorSpec, field: str, contents: InferTensorContents) -> Array:
    if spec.dtype is DType.BYTES:
        strings = getattr(contents, field)
        return np.array([*strings, None], dtype=object)[:-1]  # never an array of the strings' bytes
    dtype = NUMPY[spec.dtype]
    if field in _NARROWED:
        return narrow(spec.name, numbers(contents, field, np.dtype(np.int64)), dtype)
    return numbers(contents, field, dtype)
