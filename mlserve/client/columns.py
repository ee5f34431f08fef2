"""Outputs as columns of values: sizes are checked before a stranger's shape sizes our memory."""

from __future__ import annotations

import math

from mlserve.client.refusals import Unreadable
from mlserve.client.wire import Column, Value

_MOST_VALUES = 1_000_000
"""More values than any answer about one image has."""


def element_count(name: str, shape: tuple[int, ...]) -> int:
    """How many values an output of that shape has. Raises Unreadable for an absurd shape."""
    size = math.prod(shape)
    if min(shape, default=1) < 0 or size > _MOST_VALUES:
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
