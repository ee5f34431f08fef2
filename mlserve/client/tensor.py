"""One tensor on its way to or from a server, without numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.tensors import DType
from mlserve.wire.tensors import unpack_numbers

Value = str | float | int | bool
"""One element of an answer about an image."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: its shape, its elements in row-major order, and its type.

    `data` is raw bytes (little-endian numbers), or the elements themselves: `bytes` for strings,
    and what JSON or protobuf held, with text for strings of JSON. `dtype` is None if the answer
    does not tell it, as in JSON of TensorFlow Serving; then there are no raw bytes.
    """

    shape: tuple[int, ...]
    data: bytes | Sequence[Any]
    dtype: DType | None = None

    @property
    def count(self) -> int:
        """The number of elements that the shape has."""
        return math.prod(self.shape)

    @property
    def elements(self) -> Sequence[Any]:
        """The elements; strings as `bytes`, or as text if they came so."""
        if isinstance(self.data, bytes) and self.dtype is not None:
            return unpack_numbers(self.dtype, self.data)
        return self.data

    @property
    def values(self) -> tuple[Value, ...]:
        """The elements; strings as text, in which lone surrogates stand for bytes not in UTF-8."""
        return tuple(
            value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
            for value in self.elements
        )


def nested(shape: tuple[int, ...], elements: Sequence[Any]) -> Any:
    """Return the elements as nested lists of that shape; a scalar as itself."""
    if not shape:
        return elements[0]
    rows = list(elements)
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]
        rows = [rows[at * size : (at + 1) * size] for at in range(math.prod(shape[:axis]))]
    return rows
