"""What all adapters share: columns of values and JSON, bounded before they take our memory."""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

from mlserve.client.answers import Column, Value
from mlserve.client.refusals import Unreadable
from mlserve.tensors import DType

MOST_VALUES = 1_000_000
"""More values than an answer about one image or one model has. Each takes 60 to 230 bytes once it
is parsed, and nothing else of the process runs until all are."""
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
"""How `struct` calls an element of each type of numbers; it has no bfloat16."""
_BEFORE_A_VALUE = (b",", b"[", b"{")
_EXCERPT = 200
"""Bytes of a body that a message shows."""


def element_count(name: str, shape: tuple[int, ...]) -> int:
    """How many values an output of that shape has. Raises Unreadable for an absurd shape."""
    size = math.prod(shape)
    if min(shape, default=1) < 0 or size > MOST_VALUES:
        raise Unreadable(f"an output {name!r}", f"a tensor of shape {list(shape)}")
    return size


def column(name: str, shape: tuple[int, ...], values: tuple[Value, ...]) -> Column:
    """The column. Raises Unreadable when the values are not as many as the shape says."""
    if len(values) != element_count(name, shape):
        raise Unreadable(f"an output {name!r} of shape {list(shape)}", f"{len(values)} values")
    return Column(shape, values)


def text(value: bytes) -> str:
    """A string element as text; bytes that are not UTF-8 are kept as lone surrogates."""
    return value.decode(errors="surrogateescape")


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Unreadable."""
    data = parse_any_json(body)
    if not isinstance(data, dict):
        raise Unreadable("a JSON object", excerpt(body))
    return data


def parse_any_json(body: bytes) -> Any:
    """The JSON value in `body`. Raises Unreadable, for more than `MOST_VALUES` values too."""
    if sum(map(body.count, _BEFORE_A_VALUE)) > MOST_VALUES:
        raise Unreadable(f"JSON of at most {MOST_VALUES} values", excerpt(body))
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON", excerpt(body)) from error


def excerpt(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = body[:_EXCERPT].decode(errors="backslashreplace")
    return repr(text) + (f" ... ({len(body)} bytes)" if len(body) > len(text) else "")


def shown(value: Any) -> str:
    """A value of an answer for a message, however wide or deep it is."""
    return reprlib.repr(value)
