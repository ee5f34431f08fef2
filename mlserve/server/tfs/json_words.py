"""What TensorFlow Serving's JSON parser (RapidJSON) takes and says, where Python's differs.

RapidJSON is told to read numbers that are not finite (`kParseNanAndInfFlag`): `NaN`, `Infinity` and
also `Inf`, each with a minus in front or without. Of a key that an object has twice, its lookups
find the first one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

Scan = Callable[[str, int], tuple[Any, int]]

_SHORT = ("Inf", "-Inf", "-NaN")
"""The spellings that Python does not read."""
_STRING_OR_SHORT = re.compile(
    r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|(?P<inf>Inf(?!inity))|(?P<nan>-NaN)', re.DOTALL
)
"""A string, to be left alone, or such a spelling. Linear: no part of the text is read twice."""
_REASONS = {
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma, } or ] after a value.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Extra data": "The document root must not be followed by other values.",
}
_LONGEST = 100


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; of a name that comes twice the first value counts."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else dict(reversed(pairs))


class Decoder(json.JSONDecoder):
    """Python's decoder with those spellings and `first_wins`, for text that is read in pieces."""

    def __init__(self, *, parse_float: Callable[[str], Any] | None = None) -> None:
        super().__init__(object_pairs_hook=first_wins, parse_float=parse_float)
        self._scan: Scan = self.scan_once
        self.scan_once: Scan = self._scan_value

    def decode(self, text: str) -> Any:  # type: ignore[override]
        """The value of that text; it is gone through once more where it has such a spelling."""
        try:
            return super().decode(text)
        except json.JSONDecodeError as error:
            spelled = spelled_out(text, error.pos)
            if spelled is None:
                raise
            return super().decode(spelled)

    def _scan_value(self, text: str, place: int) -> tuple[Any, int]:
        found = _STRING_OR_SHORT.match(text, place) if text.startswith(_SHORT, place) else None
        if found is None and text.startswith("-Inf", place):
            found = _STRING_OR_SHORT.match(text, place + 1)
        if found is None:
            return self._scan(text, place)
        value = math.nan if found["nan"] else math.inf
        return (-value if text[place] == "-" else value), found.end()


def spelled_out(text: str, place: int) -> str | None:
    """The text with the spellings that Python does not read written out; None without one there.

    `place` is where Python's parser gave up.
    """
    if not text.startswith(_SHORT, place):
        return None
    return _STRING_OR_SHORT.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    if found["inf"]:
        return "Infinity"
    return "NaN" if found["nan"] else found[0]


def parse_problem(error: json.JSONDecodeError) -> str:
    """What TensorFlow Serving says of text that is not JSON, with Python's own words behind it."""
    if not error.doc.strip():
        return "JSON Parse error: The document is empty"
    reason = next((ours for said, ours in _REASONS.items() if error.msg.startswith(said)), None)
    return f"JSON Parse error: {reason or 'Invalid value.'} at offset: {error.pos} ({error})"


def type_of_value(value: Any) -> str:
    """RapidJSON's name for the type of a JSON value."""
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def shown(value: Any) -> str:
    """A JSON value as it is written, as far as a message has room for it."""
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, list):
        return "[...]" if value else "[]"
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{json.dumps(value[:_LONGEST], ensure_ascii=False)}..."
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _LONGEST:
        return "a number of many digits"  # longer ones than Python writes
    return json.dumps(value, ensure_ascii=False)
