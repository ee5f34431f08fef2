"""Cells as values of an element type: text from CSV, and values from JSON.

A missing value (an empty cell, or null) is NaN for floats and the empty string for strings; other
types have none.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from mlserve.errors import InvalidInput, shortened
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.tensors import INTEGERS, float64_holds, integer_limits

_NUMBER = re.compile(
    r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf(inity)?)\s*", re.I
)
_WHOLE = re.compile(r"\s*[+-]?\d+(\.0*)?\s*")
_MISSING = frozenset(("", "na", "n/a", "nan", "null"))
_TOO_LARGE = {
    DType.FLOAT16: 65520.0,
    DType.BFLOAT16: 2.0**128 - 2.0**119,
    DType.FLOAT32: 2.0**128 - 2.0**103,
    DType.FLOAT64: math.inf,
}
"""The least number that each float type rounds to infinity (IEEE 754, ties to even).

It is above the largest value, whose shortest digits may be above it as well: 3.4028235e+38.
"""
_ALWAYS_EXACT = 15
"""The digits of a whole number that any float64 keeps."""
_EXACT = 2.0**53
"""Up to here, a float is the whole number that was written."""
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
BYTES_KEY = "b64"
"""`{"b64": "..."}` stands for bytes in JSON, as in TensorFlow Serving's REST API."""


class WrongCell(ValueError):
    """A cell that the element type cannot take; the text says why."""


def is_number_text(cell: str) -> bool:
    """Return whether a cell of text is a number, or missing."""
    return cell.strip().lower() in _MISSING or _NUMBER.fullmatch(cell) is not None


def is_number_value(value: Any) -> bool:
    """Return whether a value from JSON is a number, or null; or a single number of numpy."""
    if hasattr(value, "dtype"):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


class _Constant(float):
    """NaN or an infinity that JSON names; Python reads 1e400 as infinity, too."""


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{shortened(twice)}' comes twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_Constant, object_pairs_hook=_as_object)


def parsed_json(text: str | bytes) -> Any:
    """Return the value of JSON that a person wrote, as `value_reader` takes it.

    Raises ValueError, also for text that is not UTF-8 and a key that comes twice, and
    RecursionError.
    """
    return _DECODER.decode(text if isinstance(text, str) else text.decode())


def text_reader(dtype: DType) -> Callable[[str], Any]:
    """Return the function that reads a cell of text; it raises WrongCell."""
    if dtype in _TOO_LARGE:
        return lambda cell: _float_of(cell, dtype)
    if dtype is DType.BYTES:
        return str
    if dtype is DType.BOOL:
        return _bool_of
    if dtype in INTEGERS:
        return lambda cell: _int_of(cell, dtype)
    return lambda cell: _refuse(cell, dtype)


def nested_reader(dtype: DType) -> Callable[[str], Any]:
    """Return the function that reads a cell of text that holds one value or a JSON array."""
    read_one, read_values = text_reader(dtype), value_reader(dtype)

    def read(cell: str) -> Any:
        if not cell.lstrip().startswith("["):
            return read_one(cell)
        try:
            values = parsed_json(cell)
        except (ValueError, RecursionError) as error:
            raise WrongCell(f"'{shortened(cell)}' is not a JSON array: {error}") from error
        return read_values(values)

    return read


def value_reader(dtype: DType) -> Callable[[Any], Any]:
    """Return the function that reads a value from JSON, or lists of them; it raises WrongCell.

    An array of numpy is returned as it is.
    """
    too_large = _TOO_LARGE.get(dtype, 0.0)

    def read(value: Any) -> Any:
        if type(value) is float and -too_large < value < too_large:
            return value  # most values, which need no closer look
        if isinstance(value, list):
            return [read(item) for item in value]
        if hasattr(value, "dtype") and hasattr(value, "ndim"):
            return value
        return _string(value) if dtype is DType.BYTES else _number_of(value, dtype)

    return read


def input_value(spec: TensorSpec, value: Any) -> Any:
    """Return an input's value from JSON, or lists of them. Raises InvalidInput, naming it."""
    try:
        return value_reader(spec.dtype)(value)
    except WrongCell as error:
        raise InvalidInput(
            f"input {spec.name!r}: {error}", hint=f"the model takes {spec}"
        ) from error


def _number_of(value: Any, dtype: DType) -> Any:
    if isinstance(value, Mapping):
        raise WrongCell(f"{_shown(value)} is an object, not {_words(dtype)}")
    if isinstance(value, str):
        raise WrongCell(f"'{shortened(value)}' is a string, not {_words(dtype)}")
    if value is None:
        return _missing(dtype)
    if dtype in _TOO_LARGE:
        if dtype is DType.FLOAT64 and type(value) is int:
            _require_held(value, str(value))
        is_cut = type(value) is float and math.isinf(value)
        return _fitting(_number(value, dtype), "a number" if is_cut else str(value), dtype)
    if dtype is DType.BOOL:
        return _boolean(value)
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise WrongCell(f"{_shown(value)} is not a whole number")
    if isinstance(value, float) and abs(value) >= _EXACT:
        raise WrongCell(f"{value!r} may have lost digits: write it without a point or an exponent")
    return _within(int(value), dtype)


def _float_of(cell: str, dtype: DType) -> float:
    if not _NUMBER.fullmatch(cell):
        if cell.strip().lower() in _MISSING:
            return math.nan
        raise WrongCell(f"'{shortened(cell)}' is not a number")
    number = _fitting(float(cell), cell, dtype)
    if dtype is DType.FLOAT64 and len(cell) > _ALWAYS_EXACT and _WHOLE.fullmatch(cell):
        digits = cell.partition(".")[0].strip().lstrip("+-0")  # int() takes 4,300, zeros too
        _require_held(int(digits or "0"), cell.strip())
    return number


def _fitting(value: float, shown: str, dtype: DType) -> float:
    is_overflow = math.isinf(value) and "inf" not in shown.lower()
    if is_overflow or (math.isfinite(value) and abs(value) >= _TOO_LARGE[dtype]):
        raise WrongCell(f"{shortened(shown)} is too large for {dtype.label}")
    return value


def _require_held(whole: int, shown: str) -> None:
    """Raise WrongCell for a whole number that a float64 would change, such as a long id."""
    if not float64_holds(whole):
        raise WrongCell(f"{shortened(shown)} is a whole number that float64 cannot hold")


def _number(value: Any, dtype: DType) -> float:
    if isinstance(value, bool):
        raise WrongCell(f"{_shown(value)} is not {_words(dtype)}")
    try:
        return float(value)
    except OverflowError as error:
        raise WrongCell(f"{shortened(str(value))} is too large for {dtype.label}") from error


def _int_of(cell: str, dtype: DType) -> int:
    if not _WHOLE.fullmatch(cell):
        if not cell.strip():
            return int(_missing(dtype))
        raise WrongCell(f"'{shortened(cell)}' is not a whole number")
    try:
        return _within(int(cell.partition(".")[0]), dtype)
    except WrongCell:
        raise
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise WrongCell(f"'{shortened(cell)}' does not fit {dtype.label}") from error


def _within(value: int, dtype: DType) -> int:
    if dtype not in INTEGERS:
        _refuse(str(value), dtype)
    low, high = integer_limits(dtype)
    if not low <= value <= high:
        raise WrongCell(
            f"{shortened(str(value))} does not fit {dtype.label}, which is {low} to {high}"
        )
    return value


def _bool_of(cell: str) -> bool:
    word = cell.strip().lower()
    if not word:
        return bool(_missing(DType.BOOL))
    if word not in _BOOLEANS:
        raise WrongCell(f"'{shortened(cell)}' is not true or false")
    return _BOOLEANS[word]


def _boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise WrongCell(f"{_shown(value)} is not true or false")
    return bool(value)


def _string(value: Any) -> str | bytes:
    if value is None:
        return ""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping) and value.keys() == {BYTES_KEY}:
        try:
            return base64.b64decode(value[BYTES_KEY], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise WrongCell(f"its {BYTES_KEY} is not base64: {error}") from error
    raise WrongCell(f"{_shown(value)} is not a string")


def _missing(dtype: DType) -> Any:
    if dtype in _TOO_LARGE:
        return math.nan
    raise WrongCell(f"it is empty, and {dtype.label} has no missing value")


def _refuse(cell: str, dtype: DType) -> NoReturn:
    raise WrongCell(f"'{shortened(cell)}' cannot be read as {dtype.label}; send it with --input")


def _words(dtype: DType) -> str:
    return "a number" if dtype in _TOO_LARGE else f"{dtype.label}"


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, default=str))
