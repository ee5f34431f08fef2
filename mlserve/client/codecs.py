"""Decoding shared by the adapters: columns of values and JSON, with limits on memory."""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

from mlserve.client.answers import Column, Value
from mlserve.client.refusals import Unreadable
from mlserve.tensors import DType

MOST_VALUES = 1_000_000
"""More values than any answer about one image or one model has.

Parsing takes 60 to 230 bytes for each, and blocks the whole process meanwhile.
"""
STRUCT_CODES = {
    DType.BOOL: "?",
    DType.UINT8: "B",
    DType.UINT16: "H",
    DType.UINT32: "I",
    DType.UINT64: "Q",
    DType.INT8: "b",
    DType.INT16: "h",
    DType.INT32: "i",
    DType.INT64: "q",
    DType.FLOAT16: "e",
    DType.FLOAT32: "f",
    DType.FLOAT64: "d",
}
"""`struct` format of an element of each numeric type; there is none for bfloat16."""
_BEFORE_A_VALUE = (b",", b"[", b"{")
_EXCERPT = 200
"""Bytes of a body that a message shows."""


def element_count(name: str, shape: tuple[int, ...]) -> int:
    """Return the number of values in an output. Raises Unreadable for an absurd shape."""
    size = math.prod(shape)
    if min(shape, default=1) < 0 or size > MOST_VALUES:
        raise Unreadable(f"an output {name!r}", f"a tensor of shape {list(shape)}")
    return size


def column(name: str, shape: tuple[int, ...], values: tuple[Value, ...]) -> Column:
    """Return the column. Raises Unreadable if the number of values does not match the shape."""
    if len(values) != element_count(name, shape):
        raise Unreadable(f"an output {name!r} of shape {list(shape)}", f"{len(values)} values")
    return Column(shape, values)


def text(value: bytes) -> str:
    """Return a string element as text; bytes that are not UTF-8 are kept as lone surrogates."""
    return value.decode(errors="surrogateescape")


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises Unreadable."""
    data = parse_any_json(body)
    if not isinstance(data, dict):
        raise Unreadable("a JSON object", excerpt(body))
    return data


def parse_any_json(body: bytes) -> Any:
    """Return the JSON value in `body`. Raises Unreadable, also above `MOST_VALUES` values."""
    if sum(map(body.count, _BEFORE_A_VALUE)) > MOST_VALUES:
        raise Unreadable(f"JSON of at most {MOST_VALUES} values", excerpt(body))
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON", excerpt(body)) from error


def excerpt(body: bytes) -> str:
    """Return the beginning of a body, for a message."""
    text = body[:_EXCERPT].decode(errors="backslashreplace")
    return repr(text) + (f" ... ({len(body)} bytes)" if len(body) > len(text) else "")


def shown(value: Any) -> str:
    """Return a bounded representation of a value, for a message."""
    return reprlib.repr(value)
