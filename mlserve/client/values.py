"""Turn a caller's values, in Python's own types, into a tensor: exactly, or not at all.

A list has no element type, so its numbers become those of the model: whole numbers are floats where
floats are expected, and floats are rounded to what the model takes. Nothing else is converted: text
is never a number, 2.5 is never an integer, and None is nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from mlserve.client.tensor import Tensor
from mlserve.errors import InvalidInput, counted, shortened
from mlserve.tensors import DType
from mlserve.wire.tensors import COMPLEX, FLOATS, float64_holds, integer_limits, pack_numbers

_LISTS = (list, tuple, range)
_PLAIN = frozenset({bool, int, float, complex, str, bytes, list, tuple, range, type(None)})
_MOST_DIMENSIONS = 64
"""numpy's limit; a list that contains itself has no end."""
_TIMES = ("m", "M")
_SHOWN = 60
_NATURAL = {
    bool: DType.BOOL,
    int: DType.INT64,
    float: DType.FLOAT64,
    complex: DType.COMPLEX128,
    str: DType.BYTES,
    bytes: DType.BYTES,
}
_KINDS = {bool: "a boolean", complex: "a complex number", str: "text", bytes: "bytes"}


def tensor_of(name: str, dtype: DType | None, value: Any) -> Tensor:
    """Return nested lists, or one value, as a tensor of the type; None chooses it by the values.

    Raises InvalidInput, naming the input, the place and the value.
    """
    shape, elements = _flattened(name, value)
    if dtype is None:
        dtype = natural_type(elements)
    return Tensor(shape, packed(name, dtype, shape, elements), dtype)


def packed(
    name: str, dtype: DType, shape: tuple[int, ...], elements: Sequence[Any]
) -> bytes | list[bytes]:
    """Return the data of a tensor of these elements. Raises InvalidInput."""
    kinds = {type(item) for item in elements}
    misfits = kinds - _accepted(dtype)
    if misfits:
        index = next(i for i, item in enumerate(elements) if type(item) in misfits)
        raise misfit(name, dtype, shape, index, elements[index])
    if dtype is DType.BYTES:
        return [_encoded(name, dtype, shape, i, item) for i, item in enumerate(elements)]
    if dtype is DType.FLOAT64 and int in kinds:
        index = next((i for i, item in enumerate(elements) if _is_lost(item)), -1)
        if index >= 0:
            why = f"which {dtype.label} cannot hold exactly"
            raise misfit(name, dtype, shape, index, elements[index], why)
    try:
        return pack_numbers(dtype, _exact(dtype, elements))
    except (struct.error, OverflowError, ValueError):
        index = next(i for i, item in enumerate(elements) if reason_against(dtype, item))
        raise misfit(name, dtype, shape, index, elements[index]) from None


def misfit(
    name: str, dtype: DType, shape: tuple[int, ...], index: int, value: Any, reason: str = ""
) -> InvalidInput:
    """Return the error for an element that the input cannot hold."""
    why = reason or reason_against(dtype, value)
    return InvalidInput(
        f"input '{name}' has {shown(value)}{place(shape, index)}, {why}",
        hint=_hint(dtype, value),
    )


def place(shape: tuple[int, ...], index: int) -> str:
    """Return where the element of that number is: ` at [1, 0]`; nothing for a scalar."""
    where: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        where.insert(0, at)
    return f" at {where}" if where else ""


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    try:
        return shortened(repr(value), _SHOWN)
    except ValueError:  # Python does not print an integer of thousands of digits
        return f"a number of {value.bit_length()} bits"


def reason_against(dtype: DType, value: Any) -> str:
    """Return why an input of that type cannot hold the value; empty if it can."""
    takes = f"the model takes {dtype.label}"
    if value is None:
        return f"which is no value; {takes}"
    if type(value) not in _accepted(dtype):
        return f"which is {_KINDS.get(type(value), 'of type ' + type(value).__name__)}; {takes}"
    if dtype is DType.BYTES:
        return ""
    if dtype is DType.BOOL:
        return "" if value in (0, 1) else f"which is neither 0 nor 1; {takes}"
    return _reason_against_number(dtype, value)


def _is_lost(item: Any) -> bool:
    """Return whether it is a whole number that float64 rounds, which is an id as a rule."""
    return type(item) is int and not float64_holds(item)


def _reason_against_number(dtype: DType, value: Any) -> str:
    if dtype in FLOATS or dtype in COMPLEX:
        return "" if _packs(dtype, value) else f"which is out of range of {dtype.label}"
    if isinstance(value, float) and not value.is_integer():
        return f"which is not a whole number; the model takes {dtype.label}"
    low, high = integer_limits(dtype)
    return (
        "" if low <= value <= high else f"which is out of range of {dtype.label} ({low} to {high})"
    )


def plain(item: Any) -> Any:
    """Return a value in Python's own types: an array or a number of numpy, an enum, a bytearray."""
    if type(item) in _PLAIN:
        return item
    if isinstance(item, bytearray | memoryview):
        return bytes(item)
    if hasattr(item, "tolist"):
        return item if _is_time(item) else item.tolist()
    own = (
        kind for kind in (int, float, complex, str, bytes, list, tuple) if isinstance(item, kind)
    )
    kind = next(own, None)
    return item if kind is None else kind(item)


def _is_time(item: Any) -> bool:
    """Return whether it is a date or a duration of numpy, whose list can be mere integers."""
    return getattr(getattr(item, "dtype", None), "kind", "") in _TIMES


def _flattened(name: str, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists, and their elements. Raises InvalidInput if ragged."""
    shape: tuple[int, ...] = ()
    level = [plain(value)]
    while level and isinstance(level[0], _LISTS):
        _require_rows(name, shape, level)
        shape += (len(level[0]),)
        level = [item for row in level for item in row]
        if not _PLAIN.issuperset(map(type, level)):
            level = [plain(item) for item in level]
    if any(isinstance(item, _LISTS) for item in level):
        _require_rows(name, shape, level)
    return shape, level


def _require_rows(name: str, shape: tuple[int, ...], level: list[Any]) -> None:
    """Raise InvalidInput unless all of one level are lists of one length."""
    first = level[0]
    if len(shape) == _MOST_DIMENSIONS:
        raise InvalidInput(f"input '{name}' has more than {_MOST_DIMENSIONS} dimensions")
    sizes = [len(row) if isinstance(row, _LISTS) else None for row in level]
    odd = next((index for index, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is None:
        return
    raise InvalidInput(
        f"input '{name}' is ragged: the row{place(shape, odd)} {_length(level[odd])}, "
        f"and the row{place(shape, 0)} {_length(first)}",
        hint="give every row the same length",
    )


def _length(row: Any) -> str:
    if not isinstance(row, _LISTS):
        return f"is {shown(row)}"
    return f"has {counted(len(row), 'value')}"


def natural_type(elements: Sequence[Any]) -> DType:
    """Return the type of numpy for such values; float64 for none."""
    kinds = {type(item) for item in elements}
    if not kinds:
        return DType.FLOAT64
    if kinds <= {int, float}:
        return DType.FLOAT64 if float in kinds else DType.INT64
    return _NATURAL.get(type(elements[0]), DType.FLOAT64)


def _accepted(dtype: DType) -> frozenset[type]:
    if dtype is DType.BYTES:
        return frozenset({str, bytes})
    return frozenset({bool, int, float, complex} if dtype in COMPLEX else {bool, int, float})


def _exact(dtype: DType, elements: Sequence[Any]) -> Sequence[Any]:
    """Return the elements as `pack_numbers` takes them. Raises ValueError for one it cannot."""
    if dtype in FLOATS or dtype in COMPLEX:
        return elements
    if dtype is DType.BOOL:
        if not {0, 1}.issuperset(elements):
            raise ValueError
        return elements
    if all(type(item) is not float for item in elements):
        return elements
    whole = [int(item) for item in elements]
    if whole != list(elements):
        raise ValueError
    return whole


def _packs(dtype: DType, value: Any) -> bool:
    try:
        pack_numbers(dtype, [value])
    except (struct.error, OverflowError):
        return False
    return True


def _encoded(
    name: str, dtype: DType, shape: tuple[int, ...], index: int, item: str | bytes
) -> bytes:
    if isinstance(item, bytes):
        return item
    try:
        return item.encode()
    except UnicodeEncodeError:
        why = "which is half a character: it has no UTF-8 form"
        raise misfit(name, dtype, shape, index, item, why) from None


def _hint(dtype: DType, value: Any) -> str:
    if dtype is DType.BYTES:
        return "give text or bytes" if value is not None else "give an empty text for a missing one"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        missing = "with float('nan') if the model knows it" if dtype in FLOATS else "with a number"
        return f"fill in missing values before you send them: {missing}"
    if isinstance(value, str | bytes):
        return "give numbers, not text"
    if dtype is DType.FLOAT64 and _is_lost(value):
        return "to round it, convert it yourself: float(value)"
    return "see what the model takes with mlserve metadata"
