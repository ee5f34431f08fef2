"""Store long JSON lists compactly: their shape, and their numbers as numpy arrays.

A Python list takes 32 bytes per number, and more than 64 bytes per nested list, which the garbage
collector also has to walk. Here a number takes 8 bytes, and nested lists take nothing beyond a
record of the lengths that occur at their level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from mlserve.errors import InvalidInput
from mlserve.server.tensors import Array

MAX_RANK = 32
_AT_ONCE = 256
"""Items packed at once; in long JSON, only a few of them can be as large as a piece."""
_MOST_LENGTHS = 10
"""Different lengths recorded per level, for the error that lists them."""
_NUMBERS = frozenset({int, float})
_EXACT: dict[frozenset[type], Any] = {
    frozenset({int}): np.int64,
    frozenset({float}): np.float64,
    _NUMBERS: np.float64,
    frozenset({bool}): np.bool_,
}
_FIRST_INEXACT = 2**53
"""The smallest integer that a float64 cannot tell from its neighbour."""


@dataclass(slots=True)
class Values:
    """JSON values that are not lists, and their types; numbers as an array if that is exact.

    `integers` marks, in an array of integers and floats, the numbers written as integers.
    """

    types: frozenset[type]
    values: Sequence[Any] | Array
    integers: Array | None = None

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Values:
        """Pack the values into an array if it holds them exactly."""
        kinds = list(map(type, values))
        types = frozenset(kinds)
        dtype = _EXACT.get(types)
        if dtype is None:
            return cls(types, values)
        try:
            array = np.array(values, dtype)
        except OverflowError:  # an integer of more than 64 bits
            return cls(types, values)
        if types != _NUMBERS:
            return cls(types, array)
        integers = np.fromiter(map({int}.__contains__, kinds), np.bool_, len(kinds))
        if np.abs(array[integers]).max() >= _FIRST_INEXACT:
            return cls(types, values)
        return cls(types, array, integers)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values as Python objects, each of the type it was parsed as."""
        if not isinstance(self.values, np.ndarray):
            return iter(self.values)
        if self.integers is None:
            return iter(self.values.tolist())
        pairs = zip(self.values.tolist(), self.integers.tolist(), strict=True)
        return (int(value) if is_integer else value for value, is_integer in pairs)


@dataclass(slots=True)
class Level:
    """What occurs at one depth: the lengths of lists, and whether there are other values."""

    lengths: set[int] = field(default_factory=set)
    has_values: bool = False

    def join(self, other: Level) -> None:
        """Merge what another list has at the same depth."""
        self.has_values = self.has_values or other.has_values
        for length in other.lengths:
            if len(self.lengths) < _MOST_LENGTHS:
                self.lengths.add(length)

    @property
    def is_regular(self) -> bool:
        return len(self.lengths) + self.has_values <= 1


class PackedList:
    """An append-only list of JSON values and nested lists."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[Values] = []
        """The innermost values in order, as long as the list is a regular tensor."""
        self.levels: list[Level] = []
        """What occurs at each depth inside this list, its items first."""
        self._is_regular = True

    def __len__(self) -> int:
        return self.count

    def extend(self, items: list[Any]) -> None:
        """Add items, none of which is a PackedList."""
        self.count += len(items)
        levels, flat = _levels_of(items)
        self._join(levels)
        if flat and self._is_regular:
            self.parts.append(Values.from_list(flat))

    def append(self, item: Any) -> None:
        """Add an item, which may be a PackedList."""
        if not isinstance(item, PackedList):
            self.extend([item])
            return
        self.count += 1
        self._join([Level({item.count}), *item.levels])
        if self._is_regular:
            self.parts += item.parts

    def flat(self, name: str) -> tuple[tuple[int, ...], list[Values]]:
        """Return the shape and the values. Raises InvalidInput, naming the input."""
        shape = [self.count]
        for depth, level in enumerate(self.levels, 2):
            if level.lengths and level.has_values:
                raise both_lists_and_values(name, depth)
            if level.has_values:
                break
            if len(level.lengths) > 1 or len(shape) >= MAX_RANK:
                raise irregular(name, level.lengths, depth)
            shape += level.lengths
        return tuple(shape), self.parts

    def items(self) -> Iterator[Any] | None:
        """Return the items, or None if any is a list."""
        if any(level.lengths for level in self.levels):
            return None
        return chain.from_iterable(self.parts)

    def _join(self, levels: list[Level]) -> None:
        while len(self.levels) < len(levels):
            self.levels.append(Level())
        for mine, other in zip(self.levels, levels, strict=False):
            mine.join(other)
        if not all(level.is_regular for level in self.levels):
            self._is_regular = False
            self.parts.clear()  # never needed, as `flat` raises


def packed(items: list[Any]) -> PackedList:
    """Pack a list, some of whose items may be packed already."""
    result = PackedList()
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        if PackedList in set(map(type, some)):
            for item in some:
                result.append(item)
        else:
            result.extend(some)
    return result


def both_lists_and_values(name: str, level: int) -> InvalidInput:
    """Return the error for a level with both lists and values."""
    return InvalidInput(
        f"input '{name}' is not a regular tensor: level {level} has both lists and values"
    )


def irregular(name: str, lengths: set[int], level: int) -> InvalidInput:
    """Return the error for lists of different lengths at one level, or too deep a level."""
    named = ", ".join(map(str, sorted(lengths)[:_MOST_LENGTHS]))
    return InvalidInput(
        f"input '{name}' is not a regular tensor: lists of one level have the lengths {named} "
        f"(level {level})"
    )


def _levels_of(items: list[Any]) -> tuple[list[Level], list[Any]]:
    """Return what occurs at each depth, and the values if the items form a regular tensor."""
    levels: list[Level] = []
    while items:
        types = set(map(type, items))
        if list not in types:
            levels.append(Level(has_values=True))
            return levels, items
        if len(types) > 1:
            level = Level(has_values=True)
            level.join(Level(set(map(len, (item for item in items if type(item) is list)))))
            return [*levels, level], []
        level = Level()
        level.join(Level(set(map(len, items))))
        levels.append(level)
        items = list(chain.from_iterable(items))
    return levels, []
