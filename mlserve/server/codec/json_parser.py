"""Parse long JSON in pieces of a few milliseconds each, into compact lists.

`json.loads` of a 15 MB body holds the GIL for a second, during which the event loop answers no one,
and makes objects of twenty times that size. Here the same parser gets one piece after another,
lists of numbers become arrays piece by piece (`PackedList`), and the memory that the objects can
take is counted before they exist. Values and errors are those of `json.loads`.
"""

from __future__ import annotations

import gc
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from mlserve.errors import InvalidInput
from mlserve.server.body_memory import PIECE, Room
from mlserve.server.codec.json_lists import MAX_RANK, PackedList, packed
from mlserve.server.codec.json_outline import Outline, outline_of
from mlserve.server.tensors import too_many_rows

_BLANKS = re.compile(r"[ \t\n\r]*")
_DIGITS = re.compile(r"[-+.0-9eE]*")
_LARGE = re.compile(r"\+?[0-9]{3}")
_LARGE_EXPONENT = re.compile(rf"[eE]{_LARGE.pattern}")
_SHORT_TEXT = 1024
"""Characters up to which one pattern finds such exponents sooner than a search of each mark."""
_CHARACTERS = re.compile(r'(?:[^"\\]+|\\(?:u[0-9a-fA-F]{4}|[^u]))*')
"""Characters of a string, up to an incomplete escape."""
_HIGH, _LOW, _LAST = "\ud800\udc00\udfff"
"""The first high surrogate, the first low one, and the last low one."""
_LONGEST_ESCAPE = len(r"\uffff")
_MOST_NAMES = 65_536
"""Names in one object: far more than any model has inputs, yet few enough to compare."""
_ROWS = "instances"
_SHORT = MAX_RANK
"""Items up to which a list stays a Python list, such as a shape (Open Inference Protocol)."""
_LONGEST_NUMBER = 64 * 2**10
_LONGEST_NAME = 64 * 2**10
_VALUE, _STRING, _OBJECT = 17, 120, 240
"""Most bytes that a number, a string (besides its characters) and an object take while being read.

They are Python objects and array elements then (CPython 3.11 to 3.14, 64 bits).
"""
_PARTS = 2
"""A long string exists twice: as the parts in which it is read, and joined."""
_OBJECTS_VALUE = 48
"""The same for a number in an object of a list, which stays a Python object."""


def raw_decode(
    decoder: json.JSONDecoder,
    text: str,
    start: int,
    room: Room,
    *,
    max_depth: int,
    most_rows: int | None = None,
    block: int = PIECE,
) -> tuple[Any, int]:
    """Return the JSON object at `start` and where it ends, like `decoder.raw_decode`.

    Long lists in it are packed, except lists of objects. Raises JSONDecodeError, ValueError for an
    overlong number or name or too many names, InvalidInput for too many levels, InputTooLarge for
    more than `most_rows` rows in its `instances`, and what `room` raises.
    """
    if text[start : start + 1] != "{":
        raise InvalidInput("JSON Parse error: a body of this length must be an object")
    outline = outline_of(text, room, start=start, max_depth=max_depth, block=block)
    room.take(_cost(outline, text))
    return _Parser(decoder, text, outline, room, start, most_rows, block).value(start)


def after_blanks(text: str, start: int) -> int:
    """Return where the next non-blank character is; in pieces, as there may be many blanks."""
    while (end := _end_of(_BLANKS, text, start, start + PIECE)) == start + PIECE:
        start = end
    return end


def _cost(outline: Outline, text: str) -> int:
    """Return the most bytes that the objects of the text can take, including string contents."""
    value = _OBJECTS_VALUE if outline.objects > 1 else _VALUE
    values = outline.commas * value + outline.quotes // 2 * _STRING + outline.objects * _OBJECT
    width = sys.getsizeof(text) // len(text)  # bytes per character: all are as wide as the widest
    characters = max(0, len(text) - 2 * outline.commas)
    return values + _PARTS * characters * width


class _Parser:
    """Parses the large values of the outline, and leaves all others to the C parser."""

    def __init__(
        self,
        decoder: json.JSONDecoder,
        text: str,
        outline: Outline,
        room: Room,
        origin: int,
        most_rows: int | None,
        block: int,
    ) -> None:
        self._text = text
        self._cuts = outline.cuts
        self._strings = outline.strings
        self._room = room
        self._origin = origin
        self._most_rows = most_rows
        self._block = block
        self._decode = decoder.decode
        self._scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # type: ignore[attr-defined]
        hook: Callable[[list[tuple[str, Any]]], Any] | None = decoder.object_pairs_hook
        self._to_object = dict if hook is None else hook

    def value(self, start: int) -> tuple[Any, int]:
        """Return the value at `start`, and where it ends."""
        if start in self._cuts:
            is_object = self._text[start] == "{"
            return self._object(start) if is_object else self._list(start)
        if start in self._strings:
            return self._string(start + 1)
        longest = start + _LONGEST_NUMBER
        if _end_of(_DIGITS, self._text, start, longest) == longest:
            raise ValueError(f"a number of more than {_LONGEST_NUMBER} digits (char {start})")
        try:
            return self._scan(self._text, start)
        except StopIteration as stop:
            raise self._fault("Expecting value", stop.value) from None

    def _object(self, start: int) -> tuple[Any, int]:
        pairs: list[tuple[str, Any]] = []
        place = self._blanks(start + 1)
        if self._text[place : place + 1] == "}":
            return self._to_object(pairs), place + 1
        while True:
            if self._text[place : place + 1] != '"':
                raise self._fault("Expecting property name enclosed in double quotes", place)
            name, place = self._name(place)
            place = self._blanks(place)
            if self._text[place : place + 1] != ":":
                raise self._fault("Expecting ':' delimiter", place)
            place = self._blanks(place + 1)
            if start == self._origin and name == _ROWS and self._is_large_list(place):
                value, place = self._list(place, self._most_rows)
            else:
                value, place = self.value(place)
            pairs.append((name, value))
            place = self._blanks(place)
            mark = self._text[place : place + 1]
            if mark == "}":
                return self._to_object(pairs), place + 1
            if mark != ",":
                raise self._fault("Expecting ',' delimiter", place)
            if len(pairs) > _MOST_NAMES:
                raise ValueError(f"an object of more than {_MOST_NAMES} names")
            self._room.require_time()
            place = self._blanks(place + 1)

    def _name(self, place: int) -> tuple[str, int]:
        if place not in self._strings:
            name, end = scanstring(self._text, place + 1, True)
            return name, end
        name, end = self._string(place + 1)
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"a name of {len(name)} characters (char {place})")
        return name, end

    def _is_large_list(self, place: int) -> bool:
        return place in self._cuts and self._text[place] == "["

    def _list(self, start: int, most: int | None = None) -> tuple[Any, int]:
        items, cuts, next_cut = PackedList(), self._cuts[start], 0
        place = self._blanks(start + 1)
        if self._text[place : place + 1] == "]":
            return [], place + 1
        while True:
            while next_cut < len(cuts) and cuts[next_cut] <= place:
                next_cut += 1
            if next_cut < len(cuts) and self._take_piece(items, place, cuts[next_cut]):
                place = cuts[next_cut]
            else:
                item, place = self.value(place)
                items.append(item)
            if most is not None and len(items) > most:
                raise too_many_rows(most)
            place = self._blanks(place)
            mark = self._text[place : place + 1]
            if mark == "]":
                return _compact(items), place + 1
            if mark != ",":
                raise self._fault("Expecting ',' delimiter", place)
            self._room.require_time()
            place = self._blanks(place + 1)

    def _take_piece(self, found: PackedList, start: int, end: int) -> bool:
        """Take all items of a list up to a comma or its end at once; return False if impossible.

        Within one block no item is large. If the piece has a fault, the caller reads its items one
        by one to find the position.
        """
        if start >= end or self._number(start) != self._number(end):
            return False
        piece = self._text[start:end]
        if piece.isspace():
            return False
        with _collector_off():
            try:
                items = self._decode(f"[{piece}]")
            except ValueError:
                return False
            _pack_values(items)
            found.extend(items)
        return True

    def _string(self, start: int) -> tuple[str, int]:
        """Return the string whose characters begin at `start`, and where it ends."""
        parts: list[str] = []
        place = start
        while self._text[place : place + 1] != '"':
            self._room.require_time()
            end = _end_of(_CHARACTERS, self._text, place, place + max(self._block, _LONGEST_ESCAPE))
            if end == place:
                raise self._broken(start, place)
            try:
                part, _ = scanstring(self._text[place:end] + '"', 0, True)
            except json.JSONDecodeError as error:
                raise self._fault(error.msg, place + error.pos) from None
            if parts and _HIGH <= parts[-1][-1] < _LOW <= part[0] <= _LAST:
                parts[-1], part = parts[-1][:-1] + _joined(parts[-1][-1], part[0]), part[1:]
            if part:
                parts.append(part)
            place = end
        return "".join(parts), place + 1

    def _broken(self, start: int, place: int) -> json.JSONDecodeError:
        """Return the error of a string that was read up to `place`."""
        try:
            scanstring(self._text, place, True)
        except json.JSONDecodeError as error:
            is_open = error.msg.startswith("Unterminated")
            return self._fault(error.msg, start - 1 if is_open else error.pos)
        raise AssertionError(place)

    def _number(self, place: int) -> int:
        """Return the number of the block that contains `place`."""
        return (place - self._origin) // self._block

    def _blanks(self, start: int) -> int:
        return after_blanks(self._text, start)

    def _fault(self, message: str, place: int) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, place)


def _end_of(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    """Return where the match at `start` ends, at most at `end`; the pattern may match nothing."""
    match = pattern.match(text, start, end)
    assert match is not None
    return match.end()


def _joined(high: str, low: str) -> str:
    return chr(0x10000 + (ord(high) - ord(_HIGH) << 10) + ord(low) - ord(_LOW))


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector from walking the whole process for short-lived lists."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:  # of several threads here, the one that saw it on turns it on again
            gc.enable()


def _pack_values(rows: list[Any]) -> None:
    """Pack the lists, except short ones, in the objects of a list."""
    for row in rows:
        if type(row) is dict:
            for name, value in row.items():
                if type(value) is list and (len(value) > _SHORT or list in map(type, value)):
                    row[name] = packed(value)


def _compact(items: PackedList) -> PackedList | list[Any]:
    """Return a Python list if there are few items, or objects among them; else the packed list."""
    if len(items) <= _SHORT or any(dict in part.types for part in items.parts):
        unpacked = items.items()
        if unpacked is not None:
            return list(unpacked)
    return items


def has_large_exponent(text: str) -> bool:
    """Return whether the text may have a number with an exponent above 99.

    Text in strings may match too. A single pattern for whole numbers would take four times as long
    on numbers without an exponent.
    """
    if len(text) <= _SHORT_TEXT:
        return _LARGE_EXPONENT.search(text) is not None
    return any(_has_large_after(text, mark) for mark in "eE")


def finite(text: str) -> float:
    """Parse a number. Raises ValueError if it is too large, which Python reads as infinity."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("Number too big to be stored in double.")
    return value


def _has_large_after(text: str, mark: str) -> bool:
    place = text.find(mark)
    while place >= 0:
        if _LARGE.match(text, place + 1):
            return True
        place = text.find(mark, place + 1)
    return False
