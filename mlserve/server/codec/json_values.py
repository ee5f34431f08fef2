"""Convert JSON values to numpy arrays and back, for the REST bodies of both protocols.

A request's list may already be a `PackedList`, which holds numbers as arrays. Long lists are
processed in parts, so that no step takes long.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence, Set
from itertools import chain
from typing import Any

import numpy as np
import pybase64

from mlserve.errors import InvalidInput
from mlserve.server.body_memory import PIECE
from mlserve.server.codec.json_lists import (
    MAX_RANK,
    PackedList,
    Values,
    both_lists_and_values,
    irregular,
    packed,
)
from mlserve.server.codec.rapidjson import JSON_NAMES
from mlserve.server.tensors import NUMPY, Array
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.tensors import FLOATS

_PACKED = 1024
"""Items of a list above which it is packed and read in parts."""
_DECODED = 16 * PIECE
"""Characters of base64 that are decoded at once: a tenth of a millisecond."""
_BASE64_BLANKS = " \t\n\v\f\r"


def flatten(name: str, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists, and their values: JSON values, or parts as `Values`.

    Raises InvalidInput, naming the input.
    """
    if type(value) is list and (len(value) > _PACKED or PackedList in set(map(type, value))):
        value = packed(value)
    if type(value) is PackedList:
        return value.flat(name)
    shape: list[int] = []
    level = [value]
    while level and all(type(item) is list for item in level):
        lengths = {len(item) for item in level}
        if len(lengths) > 1 or len(shape) >= MAX_RANK:
            raise irregular(name, lengths, len(shape) + 1)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    if any(type(item) is list for item in level):
        raise both_lists_and_values(name, len(shape) + 1)
    return tuple(shape), level


def misplaced_type(spec: TensorSpec, flat: list[Any]) -> type | None:
    """Return a type among the values of `flatten` that the tensor cannot hold; None if all fit."""
    wrong = types_of(flat) - _allowed_types(spec.dtype)
    return min(wrong, key=JSON_NAMES.__getitem__, default=None)


def misplaced_text(spec: TensorSpec, kind: type) -> str:
    """Return the error text for a value of that type in the input."""
    return f"input '{spec.name}' has {JSON_NAMES[kind]} where {spec.dtype.label} is expected"


def types_of(flat: list[Any]) -> Set[type]:
    """Return the types of the values of `flatten`."""
    if _is_in_parts(flat):
        return frozenset().union(*(part.types for part in flat))
    return set(map(type, flat))


def first_of(kind: type, flat: list[Any]) -> Any:
    """Return the first value of that type among those of `flatten`; there must be one."""
    values: Iterable[Any] = flat
    if _is_in_parts(flat):
        values = next(part for part in flat if kind in part.types)
    return next(value for value in values if type(value) is kind)


def to_flat_array(spec: TensorSpec, flat: list[Any], *, overflows: bool) -> Array:
    """Return a one-dimensional array of the values of `flatten`, whose types fit the tensor.

    With `overflows`, values too large for a float become infinite, as in C. Raises InvalidInput,
    naming the input, for a value out of range and for bytes that are not text or base64.
    """
    if not _is_in_parts(flat):
        return _to_array(spec, flat, overflows=overflows)
    array = np.empty(sum(map(len, flat)), NUMPY[spec.dtype])
    start = 0
    for part in flat:
        array[start : start + len(part)] = _to_array(spec, part.values, overflows=overflows)
        start += len(part)
    return array


def from_numbers(spec: TensorSpec, array: Array) -> Any:
    """Return an array of numbers or booleans as nested lists of JSON values, or a scalar as one."""
    if spec.dtype in FLOATS and spec.dtype is not DType.FLOAT64:
        # The shortest decimal of a float32 is what a reader expects: 0.1, not 0.10000000149011612.
        array = array.astype(np.float32).astype(np.str_).astype(np.float64)
    return array.tolist()


def is_base64(value: dict[str, Any]) -> bool:
    """Return whether the object is `{"b64": "..."}`, which stands for bytes."""
    return len(value) == 1 and isinstance(value.get("b64"), str)


def from_base64(text: str) -> bytes:
    """Decode base64 text in pieces. Raises binascii.Error and ValueError.

    Line ends and other blanks are allowed, as most programs write them, and padding may be missing:
    TensorFlow Serving accepts both (`Base64Unescape` of Abseil).
    """
    for blank in _BASE64_BLANKS:
        if blank in text:  # far quicker than to replace what is not there
            text = text.replace(blank, "")
    if len(text) % 4:
        text += "=" * (-len(text) % 4)
    parts = []
    for start in range(0, len(text), _DECODED):
        part = text if len(text) <= _DECODED else text[start : start + _DECODED]
        if start + _DECODED < len(text) and "=" in part:
            raise binascii.Error("Excess data after padding")
        parts.append(_decoded(part))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decoded(text: str) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)
    except binascii.Error:
        return base64.b64decode(text, validate=True)  # says what is wrong with it


def to_base64(data: bytes) -> str:
    """Encode bytes as base64 text, in pieces."""
    size = PIECE // 3 * 3
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return "".join(pybase64.b64encode(piece).decode() for piece in pieces)


def _is_in_parts(flat: list[Any]) -> bool:
    return bool(flat) and type(flat[0]) is Values


def _allowed_types(dtype: DType) -> set[type]:
    if dtype is DType.BYTES:
        return {str, dict}
    if dtype is DType.BOOL:
        return {bool}
    return {int, float} if dtype in FLOATS else {int}


def _to_array(spec: TensorSpec, values: Sequence[Any] | Array, *, overflows: bool) -> Array:
    dtype = NUMPY[spec.dtype]
    if spec.dtype is DType.BYTES:
        items = (_to_bytes(spec.name, item) for item in values)
        # The None keeps numpy from looking into the bytes.
        return np.array([*items, None], dtype=object)[:-1]
    if spec.dtype in FLOATS:
        return _to_floats(spec, values, overflows=overflows)
    if spec.dtype is not DType.BOOL and len(values):
        limits = np.iinfo(dtype)
        if isinstance(values, np.ndarray):
            smallest, largest = values.min(), values.max()
        else:
            smallest, largest = min(values), max(values)
        if smallest < limits.min or largest > limits.max:
            raise InvalidInput(f"input '{spec.name}' has a value out of range of {dtype}")
    return np.array(values, dtype)


def _to_floats(spec: TensorSpec, values: Sequence[Any] | Array, *, overflows: bool) -> Array:
    try:
        wide = np.array(values, np.float64)
    except OverflowError as error:
        raise _out_of_range(spec) from error
    with np.errstate(over="ignore"):
        floats = wide.astype(NUMPY[spec.dtype])
    if not overflows and np.any(np.isinf(floats) != np.isinf(wide)):
        raise _out_of_range(spec)
    return floats


def _out_of_range(spec: TensorSpec) -> InvalidInput:
    return InvalidInput(f"input '{spec.name}' has a value out of range of {spec.dtype.label}")


def _to_bytes(name: str, item: str | dict[str, Any]) -> bytes:
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"input '{name}' has half a character: {error}") from error
    if not is_base64(item):
        raise InvalidInput(f'input \'{name}\' has an object that is not {{"b64": "..."}}')
    text: str = item["b64"]
    try:
        return from_base64(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"input '{name}' has a b64 that is not base64: {error}") from error
