"""Scan a JSON text without parsing it: how deep it is, and where it can be cut into pieces.

The text is scanned in blocks. A list, object or string that ends in a later block than it begins in
is large. All others are smaller than a block, so the parser of the standard library, which cannot
be interrupted, finishes one in a few milliseconds. For each large list the outline records one
comma between two items in every block that has one: the list is cut there.

The outline of invalid JSON is correct up to the first fault, and the parser gets no further.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np

from mlserve.errors import InvalidInput
from mlserve.options import flag_of
from mlserve.server.body_memory import PIECE, Room
from mlserve.server.tensors import Array

_KEPT = b'"[]{}'
_DROPPED = bytes(set(range(256)) - set(_KEPT))
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_BETWEEN = 0x5C
"""The code between those of `[` and `]`: subtracting a bracket from it gives 1 or -1."""
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_OPENING_BRACE = b"{"[0]
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")
_IS_KEPT = np.zeros(256, np.bool_)
_IS_KEPT[list(b'"\\,[]{}')] = True
_STEP = np.zeros(256, np.int8)
_STEP[list(_OPENING)] = 1
_STEP[list(_CLOSING)] = -1
_PLAIN = bytes(set(range(256)) - set(b'"\\[]{}'))


def check_depth(text: str, limit: int) -> None:
    """Raise InvalidInput for JSON of more than `limit` levels, without parsing it.

    Invalid JSON is left to the parser.
    """
    if text.count("[") + text.count("{") > limit and depth_of(text) > limit:
        raise too_deep(limit)


def too_deep(limit: int) -> InvalidInput:
    """Return the error for JSON of more than `limit` levels."""
    return InvalidInput(
        f"JSON Parse error: nested deeper than {limit} levels, the most that this server takes "
        f"({flag_of('max_json_depth')})"
    )


def depth_of(text: str) -> int:
    """Return the most brackets open at once, ignoring those in strings.

    Each step is one pass over the text in C: 64 MB of brackets take no longer than to parse.
    """
    data = text.encode("utf-8", "replace")
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quote left delimits a string
    data = data.translate(_TO_SQUARE, _DROPPED)
    data = data.replace(b'""', b"")  # removing adjacent quotes keeps the others paired
    if b'"' in data:
        data = b"".join(data.split(b'"')[::2])
    if not data:
        return 0
    steps = np.subtract(_BETWEEN, np.frombuffer(data, np.int8), dtype=np.int8)
    return int(np.cumsum(steps, dtype=np.int32).max())


@dataclass(slots=True)
class Outline:
    """Where the large parts of a text begin, and counts that bound its number of values."""

    cuts: dict[int, list[int]] = field(default_factory=dict)
    """Positions of commas in each large list or object, then its end; keyed by where it begins."""
    strings: set[int] = field(default_factory=set)
    """Positions of the opening quotes of large strings."""
    commas: int = 0
    quotes: int = 0
    objects: int = 0


def outline_of(text: str, room: Room, *, start: int, max_depth: int, block: int = PIECE) -> Outline:
    """Return the outline of the JSON object at `start`; what follows it is ignored.

    Raises InvalidInput for more than `max_depth` levels.
    """
    reader = _Reader(max_depth)
    for place in range(start, len(text), block):
        room.require_time()
        reader.read(place, text[place : place + block].encode("latin-1", "replace"))
        if reader.is_done:
            break
    return reader.outline


class _Reader:
    def __init__(self, max_depth: int) -> None:
        self.outline = Outline()
        self.is_done = False
        self._max_depth = max_depth
        self._open: list[int] = []
        """Where the lists and objects still open after the last block begin."""
        self._string: int | None = None
        """Where the string still open after the last block begins, if any."""
        self._is_escaped = False

    def read(self, start: int, block: bytes) -> None:
        """Read the next block, which begins at `start`."""
        self.outline.commas += block.count(b",")
        if self._string is None and self._open and not block.translate(None, _PLAIN):
            self._cut(self._open[-1], start + block.rfind(b","), start)
        elif self._string is None or self._is_escaped or b'"' in block or b"\\" in block:
            self._read(start, block)
        if self._string is not None:
            self.outline.strings.add(self._string)

    def _read(self, start: int, block: bytes) -> None:
        codes = np.frombuffer(block, np.uint8)
        places = np.flatnonzero(_IS_KEPT[codes])
        codes = codes[places]
        is_quote = codes == _QUOTE
        is_backslash = codes == _BACKSLASH
        if is_backslash.any() or self._is_escaped:
            is_quote &= ~self._escaped(block)[places]
        self.outline.quotes += int(np.count_nonzero(is_quote))
        is_outside = (np.cumsum(is_quote) + (self._string is not None)) % 2 == 0
        quotes = places[is_quote]
        was_open = self._string is not None
        if (len(quotes) + was_open) % 2 == 0:
            self._string = None
        elif len(quotes):
            self._string = start + int(quotes[-1])
        codes, places = codes[is_outside], places[is_outside]
        is_structure = codes != _QUOTE
        self._follow(start, codes[is_structure], places[is_structure])

    def _escaped(self, block: bytes) -> Array:
        """Mark the characters of the block that follow an odd number of backslashes."""
        codes = np.frombuffer(block, np.uint8)
        numbers = np.arange(len(codes), dtype=np.int32)
        is_other = codes != _BACKSLASH
        # The position of the last other character at or before each; before the block if none.
        last = np.maximum.accumulate(np.where(is_other, numbers, -1 - self._is_escaped))
        before = np.concatenate(([-1 - self._is_escaped], last[:-1]))
        run = numbers - 1 - before
        self._is_escaped = not is_other[-1] and (numbers[-1] - last[-1]) % 2 == 1
        escaped: Array = run % 2 == 1
        return escaped

    def _follow(self, start: int, codes: Array, places: Array) -> None:
        """Follow these brackets and commas, all outside of strings."""
        steps = _STEP[codes]
        depths = len(self._open) + np.cumsum(steps, dtype=np.int32)
        ends = np.flatnonzero((depths <= 0) & (steps < 0))
        if len(ends):
            self.is_done = True
            count = int(ends[0]) + 1
            codes, places = codes[:count], places[:count]
            steps, depths = steps[:count], depths[:count]
        if not len(depths):
            return
        if depths.max() > self._max_depth:
            raise too_deep(self._max_depth)
        self.outline.objects += int(np.count_nonzero(codes == _OPENING_BRACE))
        least = min(int(depths.min()), len(self._open))
        self._close(start, places, depths, least)
        is_comma = codes == _COMMA
        is_least = depths == least
        if least > 0 and (commas := places[is_least & is_comma]).size:
            self._cut(self._open[least - 1], start + int(commas[-1]), start)
        # What is still open at the end was opened after the last place of the least depth. Usually
        # little comes after it.
        after = len(depths) - int(is_least[::-1].argmax()) if is_least.any() else 0
        places, depths, steps = places[after:], depths[after:], steps[after:]
        self._open_new(start, places, depths, steps)
        is_comma = is_comma[after:]
        self._cut_new(start, places[is_comma], depths[is_comma], max(least, 0))

    def _close(self, start: int, places: Array, depths: Array, least: int) -> None:
        """Record the ends of lists and objects opened before this block."""
        if len(self._open) <= least:
            return
        closed = np.arange(len(self._open), max(least, 0), -1)
        falling = np.minimum.accumulate(depths)
        ends = np.searchsorted(-falling, -closed, side="right")  # the first depth below each
        for place in places[ends].tolist():
            self.outline.cuts[self._open.pop()].append(start + place)

    def _open_new(self, start: int, places: Array, depths: Array, steps: Array) -> None:
        """Note the lists and objects that this block opens and does not close."""
        least_from_here = np.minimum.accumulate(depths[::-1])[::-1]
        stays_open = (steps > 0) & (least_from_here >= depths)
        for place in places[stays_open].tolist():
            self._open.append(start + place)
            self.outline.cuts[start + place] = []
        if len(self._open) > sys.getrecursionlimit():
            raise InvalidInput(
                f"JSON Parse error: nested deeper than {sys.getrecursionlimit()} levels, the most "
                "that can be parsed"
            )

    def _cut_new(self, start: int, commas: Array, depths: Array, least: int) -> None:
        """Cut each list or object deeper than `least` that is open, at its last comma."""
        count = len(self._open) - least
        is_open = depths <= least + count
        last = np.full(count, -1)
        last[depths[is_open] - least - 1] = commas[is_open]  # of several for one, the last is kept
        for place, opening in zip(last.tolist(), self._open[least:], strict=True):
            if place >= 0:
                self._cut(opening, start + place, start)

    def _cut(self, opening: int, place: int, start: int) -> None:
        if place >= max(start, opening):
            self.outline.cuts.setdefault(opening, []).append(place)
