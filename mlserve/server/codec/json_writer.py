"""Write arrays as JSON text in pieces, so that a large answer does not block the event loop.

The text equals that of `json.dumps` for the whole, including its spaces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mlserve.server.body_memory import PIECE
from mlserve.server.tensors import Array

Text = Iterable[str]
Convert = Callable[[Array], Any]
"""Converts an array to nested lists of JSON values: numbers, strings, objects with one string."""
_ENCODER = json.JSONEncoder(ensure_ascii=False)
"""Made once: `json.dumps` makes one for each value."""
_VALUES = 4 * 2**10
"""Values written at once: a few milliseconds for numbers."""


def array_text(array: Array, convert: Convert) -> Text:
    """Write an array as JSON."""
    weight = _weight(array)
    if weight <= _VALUES:
        value = convert(array)
        return _value_text(value) if array.dtype == object else [dumps(value)]
    if weight // len(array) > _VALUES:
        return list_text(array_text(row, convert) for row in array)
    groups = (array_text(array[rows], convert) for rows in _groups(len(array), weight))
    return list_text(map(_inside, groups))


def rows_text(columns: Mapping[str, tuple[Array, Convert]]) -> Text:
    """Write a list of objects, each with one row of every column."""
    arrays = [array for array, _ in columns.values()]
    rows, weight = len(arrays[0]), sum(map(_weight, arrays))
    if weight > _VALUES * rows:
        return list_text(
            object_text({name: array_text(a[row, ...], to) for name, (a, to) in columns.items()})
            for row in range(rows)
        )
    has_texts = any(array.dtype == object for array in arrays)
    groups = (_objects(columns, some) for some in _groups(rows, weight))
    return list_text(_inside(_value_text(g) if has_texts else [dumps(g)]) for g in groups)


def list_text(texts: Iterable[Text]) -> Text:
    """Write a list of these texts, each with one or several items."""
    return _between("[", texts, "]")


def object_text(members: Mapping[str, Text]) -> Text:
    """Write an object of these texts."""
    texts = (_after(f"{dumps(name)}: ", text) for name, text in members.items())
    return _between("{", texts, "}")


def members_text(small: Mapping[str, Any], name: str, text: Text) -> Text:
    """Write an object of small values and of one text, its last member."""
    return (f"{dumps(small)[:-1]}, {dumps(name)}: ", *text, "}")


def dumps(value: Any) -> str:
    """Return the JSON text of a small value."""
    return _ENCODER.encode(value)


def _value_text(value: Any) -> Text:
    if not _is_long(value):
        return [dumps(value)]
    if isinstance(value, list):
        return list_text(map(_value_text, value))
    if isinstance(value, dict):
        return object_text({name: _value_text(item) for name, item in value.items()})
    pieces = (value[start : start + PIECE] for start in range(0, len(value), PIECE))
    return ['"', *(dumps(piece)[1:-1] for piece in pieces), '"']


def _is_long(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_long, value))
    if isinstance(value, dict):
        return any(map(_is_long, value.values()))
    return isinstance(value, str) and len(value) > PIECE


def _weight(array: Array) -> int:
    """Count the values of an array, and the lists in which they are written."""
    lists = sum(math.prod(array.shape[:depth]) for depth in range(1, array.ndim))
    return int(array.size + lists)


def _groups(rows: int, weight: int) -> Iterator[slice]:
    """Split `rows` rows of `weight` values and lists in total into groups written at once."""
    count = max(1, _VALUES * rows // max(1, weight))
    return (slice(start, start + count) for start in range(0, rows, count))


def _objects(columns: Mapping[str, tuple[Array, Convert]], rows: slice) -> list[dict[str, Any]]:
    values = [convert(array[rows]) for array, convert in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _between(opening: str, texts: Iterable[Text], closing: str) -> Text:
    yield opening
    for number, text in enumerate(texts):
        if number:
            yield ", "
        yield from text
    yield closing


def _after(name: str, text: Text) -> Text:
    yield name
    yield from text


def _inside(text: Text) -> Text:
    """Return the text of a list without its brackets."""
    return ["".join(text)[1:-1]]
