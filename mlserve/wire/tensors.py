"""Tensor values on the wire: the fields of both protocols, and strings as raw bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mlserve.tensors import DType

TENSOR_PROTO_FIELDS = {
    DType.FLOAT32: "float_val",
    DType.FLOAT64: "double_val",
    DType.BYTES: "string_val",
    DType.COMPLEX64: "scomplex_val",
    DType.COMPLEX128: "dcomplex_val",
    DType.INT64: "int64_val",
    DType.BOOL: "bool_val",
    DType.FLOAT16: "half_val",
    DType.BFLOAT16: "half_val",
    DType.UINT32: "uint32_val",
    DType.UINT64: "uint64_val",
    **dict.fromkeys(
        (
            *(DType.INT8, DType.INT16, DType.INT32, DType.UINT8, DType.UINT16),
            *(DType.QINT8, DType.QINT16, DType.QINT32, DType.QUINT8, DType.QUINT16),
        ),
        "int_val",
    ),
}
"""The field of TensorFlow's TensorProto that holds the values of each type (tensor.proto)."""

OIP_FIELDS = {
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
"""The field of the Open Inference Protocol's InferTensorContents for each type.

FP16 and BF16 have none: they are sent as raw bytes only.
"""

LENGTH = struct.Struct("<I")
"""Prefix of a string in raw bytes (OIP): its length as a little-endian uint32."""


class CutOff(ValueError):
    """Raised for truncated raw strings, with what is `expected` at byte `at`."""

    def __init__(self, at: int, expected: str) -> None:
        super().__init__(f"at byte {at}, {expected}")
        self.at = at
        self.expected = expected


def pack_string(value: bytes) -> bytes:
    """Return a string tensor's element as raw bytes: its length, then itself."""
    return LENGTH.pack(len(value)) + value


def unpack_strings(raw: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """Yield the elements of a string tensor. Raises CutOff."""
    at, end = 0, len(raw)
    while at < end:
        if end - at < LENGTH.size:
            raise CutOff(at, f"{LENGTH.size} bytes of a length are expected")
        (length,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        if length > end - at:
            raise CutOff(at, f"a string of {length} bytes is expected")
        yield bytes(raw[at : at + length])
        at += length
