"""Tensor values on the wire: the fields of both protocols, and numbers and strings as raw bytes.

Raw numbers are little-endian, without padding; a complex number is its real and its imaginary part.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

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

_CODES = {
    DType.BOOL: "?",
    DType.UINT8: "B",
    DType.UINT16: "H",
    DType.UINT32: "I",
    DType.UINT64: "Q",
    DType.INT8: "b",
    DType.INT16: "h",
    DType.INT32: "i",
    DType.INT64: "q",
    DType.QUINT8: "B",
    DType.QUINT16: "H",
    DType.QINT8: "b",
    DType.QINT16: "h",
    DType.QINT32: "i",
    DType.FLOAT16: "e",
    DType.BFLOAT16: "H",
    DType.FLOAT32: "f",
    DType.FLOAT64: "d",
    DType.COMPLEX64: "f",
    DType.COMPLEX128: "d",
}
"""`struct` format of a number of each type, or of a part of it; Python has none for bfloat16."""
_INFINITY, _NAN = 0x7F80, 0x7FC0
"""Bits of a bfloat16; those of infinity are also the mask of its exponent."""
FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64)
COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)
INTEGERS = frozenset(_CODES.keys() - {DType.BOOL, *FLOATS, *COMPLEX})

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


def item_size(dtype: DType) -> int:
    """Return the bytes that a number of that type takes."""
    return struct.calcsize(_CODES[dtype]) * (2 if dtype in COMPLEX else 1)


def float64_holds(whole: int) -> bool:
    """Return whether a float64 is exactly that number; True beyond its range, as others tell."""
    try:
        return int(float(whole)) == whole
    except OverflowError:
        return True


def integer_limits(dtype: DType) -> tuple[int, int]:
    """Return the smallest and the largest number of one of INTEGERS."""
    bits = 8 * item_size(dtype)
    is_unsigned = _CODES[dtype].isupper()
    return (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def pack_numbers(dtype: DType, values: Sequence[Any]) -> bytes:
    """Return numbers of the type as raw bytes.

    Raises struct.error for a value of another kind or an integer out of range, and OverflowError
    for a float out of range.
    """
    if dtype in COMPLEX:
        values = tuple(chain.from_iterable((value.real, value.imag) for value in values))
    if dtype is DType.BFLOAT16:
        values = _rounded_to_bfloat16(values)
    return struct.pack(f"<{len(values)}{_CODES[dtype]}", *values)


def unpack_numbers(dtype: DType, data: bytes) -> tuple[Any, ...]:
    """Return the numbers of the type in raw bytes. Raises struct.error for part of a number."""
    size = struct.calcsize(_CODES[dtype])
    values = struct.unpack(f"<{len(data) // size}{_CODES[dtype]}", data)
    if dtype is DType.BFLOAT16:  # the upper half of a float32
        upper = struct.pack(f"<{len(values)}I", *(value << 16 for value in values))
        return struct.unpack(f"<{len(values)}f", upper)
    if dtype in COMPLEX:
        return tuple(map(complex, values[::2], values[1::2]))
    return values


def _rounded_to_bfloat16(values: Sequence[float]) -> tuple[int, ...]:
    """Return the bits of floats, rounded to the nearest bfloat16, ties to even."""
    wide = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    return tuple(map(_upper_half, wide, values))


def _upper_half(bits: int, value: float) -> int:
    """Return the rounded upper half of a float32; rounding the bits of a NaN could lose it."""
    if math.isnan(value):
        return _NAN
    half = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    if half & _INFINITY == _INFINITY and math.isfinite(value):
        raise OverflowError("float too large to pack as bfloat16")
    return half
