"""Long lists of a JSON text, kept small: their shape, and their numbers as numpy arrays.

A list of Python numbers takes 32 bytes a number, and one of short lists more than 64 bytes each,
which the garbage collector has to walk besides. Here a number takes 8 bytes, and a list of lists
nothing but what its level says: whether the lists are all of one length.
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
"""Items that are packed at once; in long JSON a few of them are as large as a piece at the most."""
_MOST_LENGTHS = 10
"""Different lengths of one level that are kept; an error names them."""
_NUMBERS = frozenset({int, float})
_EXACT: dict[frozenset[type], Any] = {
    frozenset({int}): np.int64,
    frozenset({float}): np.float64,
    _NUMBERS: np.float64,
    frozenset({bool}): np.bool_,
}
_FIRST_INEXACT = 2**53
"""The smallest integer that a float64 may stand for beside its neighbour."""


@dataclass(slots=True)
class Values:
    """JSON values that are not lists, and their types; numbers as an array where one is exact.

    `integers` says of each number of an array of both kinds whether it was written as an integer.
    """

    types: frozenset[type]
    values: Sequence[Any] | Array
    integers: Array | None = None

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Values:
        """Packs those values, if an array holds them exactly."""
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
        """Iterates over the values as Python's own, each of the type that it was parsed as."""
        if not isinstance(self.values, np.ndarray):
            return iter(self.values)
        if self.integers is None:
            return iter(self.values.tolist())
        pairs = zip(self.values.tolist(), self.integers.tolist(), strict=True)
        return (int(value) if is_integer else value for value, is_integer in pairs)


@dataclass(slots=True)
class Level:
    """All that is at one depth: the lengths of its lists, and whether there are other values."""

    lengths: set[int] = field(default_factory=set)
    has_values: bool = False

    def join(self, other: Level) -> None:
        """Takes in what another list has at the same depth."""
        self.has_values = self.has_values or other.has_values
        for length in other.lengths:
            if len(self.lengths) < _MOST_LENGTHS:
                self.lengths.add(length)

    @property
    def is_regular(self) -> bool:
        return len(self.lengths) + self.has_values <= 1


class PackedList:
    """A list of JSON values and lists of them, to which more can only be added."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[Values] = []
        """The values at the end of all lists, one after another, while it is a regular tensor."""
        self.levels: list[Level] = []
        """What is inside of this list, the items first."""
        self._is_regular = True

    def __len__(self) -> int:
        return self.count

    def extend(self, items: list[Any]) -> None:
        """Adds items, of which none is a PackedList."""
        self.count += len(items)
        levels, flat = _levels_of(items)
        self._join(levels)
        if flat and self._is_regular:
            self.parts.append(Values.from_list(flat))

    def append(self, item: Any) -> None:
        """Adds an item, which may be a PackedList."""
        if not isinstance(item, PackedList):
            self.extend([item])
            return
        self.count += 1
        self._join([Level({item.count}), *item.levels])
        if self._is_regular:
            self.parts += item.parts

    def flat(self, name: str) -> tuple[tuple[int, ...], list[Values]]:
        """The shape and the values. Raises InvalidInput that names the input."""
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
        """The items, if none is a list; else None."""
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
            self.parts.clear()  # it is never asked for: `flat` raises


def packed(items: list[Any]) -> PackedList:
    """The list, of which some items may be packed already."""
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
    """The error of a level that has both."""
    return InvalidInput(
        f"input '{name}' is not a regular tensor: level {level} has both lists and values"
    )


def irregular(name: str, lengths: set[int], level: int) -> InvalidInput:
    """The error of a level whose lists have different lengths, or that is too deep."""
    named = ", ".join(map(str, sorted(lengths)[:_MOST_LENGTHS]))
    return InvalidInput(
        f"input '{name}' is not a regular tensor: lists of one level have the lengths {named} "
        f"(level {level})"
    )


def _levels_of(items: list[Any]) -> tuple[list[Level], list[Any]]:
    """What is at each depth of these items, and their values if that is a regular tensor."""
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
