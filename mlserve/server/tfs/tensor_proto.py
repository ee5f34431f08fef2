"""Convert TensorProto, TensorFlow's tensor on the wire, to numpy and back.

TensorFlow's public `tensor.proto` defines the fields. A tensor without values is zeros, or empty
strings; with fewer values than its shape has, the last one is repeated. Where TensorFlow would
silently lose data, the tensor is refused, as that is more often a client's mistake than meant:
values in the field of another type or beside `tensor_content` (TensorFlow would ignore them), more
values than the shape has (it would drop them), and a value outside its type (it would cut bits
off).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from mlserve.errors import InvalidInput
from mlserve.options import flag_of
from mlserve.server.codec.proto_reader import narrow, numbers
from mlserve.server.tensors import NUMPY, Array
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.wire.proto.framework_pb2 import TensorProto
from mlserve.wire.tensors import COMPLEX, TENSOR_PROTO_FIELDS

_MOST_DIMENSIONS = 254
"""TensorFlow's own limit for a shape."""
_MOST_ELEMENTS = 2**63 - 1

_TYPE_NAMES = {
    DType.FLOAT32: "float",
    DType.FLOAT64: "double",
    DType.FLOAT16: "half",
    DType.BYTES: "string",
}
"""TensorFlow's names of types where they differ from numpy's."""
_HALVES = (DType.FLOAT16, DType.BFLOAT16)
_VALUE_FIELDS = set(TENSOR_PROTO_FIELDS.values())
_CONTINUES, _LONGEST_VARINT = 0x80, 63
_BY_NUMBER = {dtype.tf_number: dtype for dtype in DType}


class Expansion:
    """How much the tensors of one request may still grow as their last values are repeated.

    A string counts with its bytes, as a runtime copies each.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._left = most

    def fits(self, size: int) -> bool:
        """Reserve that many more bytes; return False if there is no room for them."""
        self._left -= size
        return self._left >= 0


def dtype_of(name: str, proto: TensorProto) -> DType:
    """Return the type of its elements. Raises InvalidInput for one that is not supported."""
    dtype = _BY_NUMBER.get(proto.dtype)
    if dtype is None:
        raise InvalidInput(f"input '{name}' has dtype {proto.dtype}, which mlserve does not serve")
    return dtype


def check_dtype(signature: Signature, spec: TensorSpec, proto: TensorProto) -> None:
    """Raise InvalidInput, in TensorFlow's words, unless the proto has the spec's dtype."""
    got = dtype_of(spec.name, proto)
    if got is not spec.dtype:
        raise InvalidInput(
            f"Expects arg[{signature.inputs.index(spec)}] to be {type_name(spec.dtype)} but "
            f"{type_name(got)} is provided: input '{spec.name}' is {got.label}, not "
            f"{spec.dtype.label}"
        )


def type_name(dtype: DType) -> str:
    """Return TensorFlow's name of the type."""
    return _TYPE_NAMES.get(dtype, dtype.label)


def to_array(name: str, proto: TensorProto, room: Expansion) -> Array:
    """Return the proto's array, which may share the proto's bytes and then is read-only.

    `room` is that of the whole request. Raises InvalidInput naming the input when the proto does
    not match its own description.
    """
    dtype = dtype_of(name, proto)
    shape = _shape(name, proto)
    _check_fields(name, dtype, proto)
    if proto.tensor_content:
        flat = _from_content(name, dtype, shape, proto)
    else:
        flat = _from_values(name, dtype, shape, proto, room)
    try:
        return flat.reshape(shape)
    except ValueError as error:  # too many dimensions, or sizes that overflow beside a zero
        raise InvalidInput(f"input '{name}' has an impossible shape: {error}") from error


def from_array(array: Array, dtype: DType) -> TensorProto:
    """Return the array as a proto, in the `*_val` field of its dtype like TensorFlow Serving."""
    proto = TensorProto(dtype=dtype.tf_name)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    getattr(proto, TENSOR_PROTO_FIELDS[dtype]).extend(_values(array, dtype))
    return proto


def _values(array: Array, dtype: DType) -> Iterable[Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype is DType.BYTES:
        return [_to_bytes(item) for item in flat.tolist()]
    if dtype in _HALVES:
        flat = flat.view(np.uint16)
    elif dtype in COMPLEX:
        flat = flat.view(flat.real.dtype)
    values: list[Any] = flat.tolist()
    return values


def _to_bytes(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _shape(name: str, proto: TensorProto) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise InvalidInput(f"input '{name}' has no shape (its rank is unknown)")
    dimensions = len(proto.tensor_shape.dim)
    if dimensions > _MOST_DIMENSIONS:
        raise InvalidInput(
            f"input '{name}' has {dimensions} dimensions; a tensor has at most {_MOST_DIMENSIONS}"
        )
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"input '{name}' has a negative size in its shape {list(shape)}")
    if math.prod(shape) > _MOST_ELEMENTS:
        raise InvalidInput(
            f"input '{name}' has the shape {list(shape)}, of more than 2**63 - 1 elements"
        )
    return shape


def _check_fields(name: str, dtype: DType, proto: TensorProto) -> None:
    """Raise InvalidInput for values in a field that is not read."""
    read = "tensor_content" if proto.tensor_content else TENSOR_PROTO_FIELDS[dtype]
    others = [
        item.name
        for item, _ in proto.ListFields()
        if item.name in _VALUE_FIELDS and item.name != read
    ]
    if others:
        raise InvalidInput(
            f"input '{name}' has values in {', '.join(others)}; those of {dtype.label} are read "
            f"from {read}"
        )


def _from_content(name: str, dtype: DType, shape: tuple[int, ...], proto: TensorProto) -> Array:
    if dtype is DType.BYTES:
        return _strings(name, math.prod(shape), proto.tensor_content)
    content, expected = proto.tensor_content, math.prod(shape) * NUMPY[dtype].itemsize
    if len(content) != expected:
        raise InvalidInput(
            f"input '{name}' has {len(content)} bytes of tensor_content; "
            f"{dtype.label}{list(shape)} takes {expected}"
        )
    if dtype is DType.BOOL and max(content) > 1:
        raise InvalidInput(f"input '{name}' has a byte in tensor_content that is neither 0 nor 1")
    return np.frombuffer(content, NUMPY[dtype])


def _strings(name: str, count: int, content: bytes) -> Array:
    """Return the strings of tensor_content: all their lengths as varints, then all their bytes."""
    lengths: list[int] = []
    place = length = shift = 0
    while len(lengths) < count and place < len(content) and shift <= _LONGEST_VARINT:
        length |= (content[place] & ~_CONTINUES) << shift
        shift += 7
        if not content[place] & _CONTINUES:
            lengths.append(length)
            length = shift = 0
        place += 1
    if len(lengths) < count or place + sum(lengths) != len(content):
        raise InvalidInput(
            f"input '{name}' has {len(content)} bytes of tensor_content that are not {count} "
            "strings, each with its length in front of them all"
        )
    ends = list(accumulate(lengths, initial=place))
    strings = np.empty(count, dtype=object)
    strings[:] = [content[start:end] for start, end in pairwise(ends)]
    return strings


def _from_values(
    name: str, dtype: DType, shape: tuple[int, ...], proto: TensorProto, room: Expansion
) -> Array:
    field = TENSOR_PROTO_FIELDS[dtype]
    values = getattr(proto, field)
    count, per_value = math.prod(shape), 2 if dtype in COMPLEX else 1
    sent, rest = divmod(len(values), per_value)
    if rest or sent > count:
        raise InvalidInput(
            f"input '{name}' has {len(values)} values in {field}; "
            f"{dtype.label}{list(shape)} takes {count * per_value}"
        )
    missing = count - sent
    size = NUMPY[dtype].itemsize + (
        len(values[-1]) if missing and sent and dtype is DType.BYTES else 0
    )
    if missing and not room.fits(missing * size):
        raise InvalidInput(
            f"input '{name}' has {sent} values for the {count} of its shape {list(shape)}; "
            f"values are repeated up to {room.most} bytes in a request, an eighth of "
            f"{flag_of('max_body_memory')}",
            hint="send each value, or less in one request",
        )
    if not sent:
        return np.full(count, b"" if dtype is DType.BYTES else 0, NUMPY[dtype])
    array = _parse(name, dtype, proto)
    return np.append(array, np.repeat(array[-1:], missing)) if missing else array


def _parse(name: str, dtype: DType, proto: TensorProto) -> Array:
    target, field = NUMPY[dtype], TENSOR_PROTO_FIELDS[dtype]
    if dtype is DType.BYTES:
        strings = getattr(proto, field)
        return np.array([*strings, None], dtype=object)[:-1]  # never an array of single bytes
    if dtype in _HALVES:
        wide = numbers(proto, field, np.dtype(np.int64))
        return narrow(name, wide, np.dtype(np.uint16)).view(target)
    if dtype in COMPLEX:
        return numbers(proto, field, target.type(0).real.dtype).view(target)
    if field == TENSOR_PROTO_FIELDS[DType.INT32]:
        return narrow(name, numbers(proto, field, np.dtype(np.int64)), target)
    return numbers(proto, field, target)
