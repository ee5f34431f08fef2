"""Convert Open Inference Protocol tensors to numpy and back: raw bytes and typed contents.

Raw bytes, of the binary tensor extension and of gRPC, are little-endian and row-major, without
padding. A BOOL is one byte, 0 or 1; a BYTES element is its length as a uint32, then its bytes.
Typed contents are gRPC's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlserve.errors import InvalidInput
from mlserve.server.body_memory import UNBOUNDED, Room
from mlserve.server.codec.proto_reader import narrow, numbers
from mlserve.server.tensors import NUMPY, Array
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.proto.inference_pb2 import InferTensorContents
from mlserve.wire.tensors import LENGTH, OIP_FIELDS, CutOff, pack_string, unpack_strings

Data = bytes | bytearray | memoryview
_STRING = 48
"""Bytes that a string in an array takes beside its characters."""
_AT_ONCE = 4096
"""Strings to read between two checks of the deadline."""
RAW_ONLY = (DType.FLOAT16, DType.BFLOAT16)
"""Types without typed contents or a JSON form, which can only be sent as raw bytes."""
_NARROWED = ("int_contents", "uint_contents")


def from_bytes(spec: TensorSpec, count: int, data: Data, room: Room = UNBOUNDED) -> Array:
    """Return the bytes as `count` values, flat; the array may share them and be read-only.

    Raises InvalidInput naming the input if they hold more or fewer.
    """
    if spec.dtype is DType.BYTES:
        return _strings(spec, count, data, room)
    dtype = NUMPY[spec.dtype]
    if len(data) != count * dtype.itemsize:
        raise InvalidInput(
            f"input '{spec.name}' has {len(data)} bytes of data; {count} values of "
            f"{spec.dtype.oip_name} take {count * dtype.itemsize}"
        )
    if spec.dtype is DType.BOOL and np.any(np.frombuffer(data, np.uint8) > 1):
        raise InvalidInput(f"input '{spec.name}' has a byte that is neither 0 nor 1")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)


def to_bytes(spec: TensorSpec, value: Array) -> bytes:
    """Return the values of the array as bytes."""
    if spec.dtype is DType.BYTES:
        return b"".join(pack_string(item) for item in byte_strings(value))
    dtype = NUMPY[spec.dtype]
    return value.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def byte_strings(value: Array) -> list[bytes]:
    """Return the elements of a BYTES array, flat; text is encoded as UTF-8."""
    flat = value.reshape(-1).tolist()
    return [item if isinstance(item, bytes) else str(item).encode() for item in flat]


def _strings(spec: TensorSpec, count: int, data: Data, room: Room) -> Array:
    if count * LENGTH.size > len(data):
        raise _wrong_count(spec, count, f"only {len(data)} bytes of data")
    room.take(len(data) + count * _STRING)
    strings, read = np.empty(count, object), 0
    for item in _split(spec, data):
        if read % _AT_ONCE == 0:
            room.require_time()
        if read < count:
            strings[read] = item
        read += 1
    if read != count:
        raise _wrong_count(spec, count, f"{read} strings in its data")
    return strings


def _split(spec: TensorSpec, data: Data) -> Iterator[bytes]:
    try:
        yield from unpack_strings(data)
    except CutOff as error:
        raise InvalidInput(
            f"the data of input '{spec.name}' ends early: {error} (each element of BYTES is its "
            "length as a little-endian uint32, then itself)"
        ) from error


def _wrong_count(spec: TensorSpec, count: int, contents: str) -> InvalidInput:
    return InvalidInput(f"input '{spec.name}' has {contents}; its shape takes {count} strings")


def _cut(spec: TensorSpec, start: int, expected: str) -> InvalidInput:
    return InvalidInput(
        f"the data of input '{spec.name}' ends early: at byte {start}, {expected} (each element of "
        "BYTES is its length as a little-endian uint32, then itself)"
    )


def from_contents(spec: TensorSpec, count: int, contents: InferTensorContents) -> Array:
    """Return the `count` values in the field of the spec's dtype, flat.

    Raises InvalidInput naming the input if there are more or fewer, or values elsewhere.
    """
    if spec.dtype in RAW_ONLY:
        raise InvalidInput(
            f"input '{spec.name}' is {spec.dtype.oip_name}, which goes into raw_input_contents only"
        )
    field = OIP_FIELDS[spec.dtype]
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
    """Return the array in the field of the spec's dtype, which is not one of RAW_ONLY."""
    values: Any
    values = byte_strings(value) if spec.dtype is DType.BYTES else value.reshape(-1).tolist()
    return InferTensorContents(**{OIP_FIELDS[spec.dtype]: values})


def _parse(spec: TensorSpec, field: str, contents: InferTensorContents) -> Array:
    if spec.dtype is DType.BYTES:
        strings = getattr(contents, field)
        return np.array([*strings, None], dtype=object)[:-1]  # never an array of single bytes
    dtype = NUMPY[spec.dtype]
    if field in _NARROWED:
        return narrow(spec.name, numbers(contents, field, np.dtype(np.int64)), dtype)
    return numbers(contents, field, dtype)
