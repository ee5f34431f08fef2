"""What TensorFlow Serving's readers of JSON and base64 take and say, where Python's differ.

RapidJSON is told to read numbers that are not finite (`kParseNanAndInfFlag`): `NaN`, `Infinity` and
also `Inf`, each with a minus in front or without. Of a key that an object has twice, its lookups
find the first one. Its base64 may have line ends and other blanks in it, as most programs write
them, and no padding (`Base64Unescape` of Abseil).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

from mlserve.server.body_memory import PIECE
from mlserve.server.codec.json_lists import PackedList

Scan = Callable[[str, int], tuple[Any, int]]

_SHORT = ("Inf", "-Inf", "-NaN")
"""The spellings that Python does not read."""
_STRING_OR_SHORT = re.compile(
    r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|(?P<inf>Inf(?!inity))|(?P<nan>-NaN)', re.DOTALL
)
"""A string, to be left alone, or such a spelling. Linear: no part of the text is read twice."""
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[][{}]', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
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
_BLANKS = " \t\n\v\f\r"


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

    def _scan_value(self, text: str, place: int) -> tuple[Any, int]:
        try:
            return self._scan(text, place)
        except StopIteration as stop:
            if not text.startswith(_SHORT, stop.value):
                raise
        return self._scan_spelled_out(text, place)

    def _scan_spelled_out(self, text: str, place: int) -> tuple[Any, int]:
        """The value that begins there, with the spellings that Python does not read written out."""
        end = _end_of_value(text, place)
        written = text[place:end]
        spelled = _STRING_OR_SHORT.sub(_written_out, written)
        try:
            return self._scan(spelled, 0)[0], end
        except StopIteration as stop:
            raise StopIteration(place + _before_spelling(written, stop.value)) from None
        except json.JSONDecodeError as error:
            place += _before_spelling(written, error.pos)
            raise json.JSONDecodeError(error.msg, text, place) from None


def _end_of_value(text: str, place: int) -> int:
    """Where the list, object or other value ends that begins there."""
    if text[place] not in "[{":
        found = _STRING_OR_SHORT.match(text, place + text.startswith("-Inf", place))
        return len(text) if found is None else found.end()
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text, place):
        depth += _STEPS.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _before_spelling(written: str, place: int) -> int:
    """Where in the text is what stands at that place once it is spelled out."""
    for found in _STRING_OR_SHORT.finditer(written):
        if found.start() >= place:
            break
        place -= len(_written_out(found)) - len(found[0])
    return place


def _written_out(found: re.Match[str]) -> str:
    if found["inf"]:
        return "Infinity"
    return "NaN" if found["nan"] else found[0]


def from_base64(text: str) -> bytes:
    """The bytes of base64 text, in pieces. Raises binascii.Error, ValueError."""
    for blank in _BLANKS:
        text = text.replace(blank, "")
    parts = []
    for start in range(0, len(text), PIECE):
        part, is_last = text[start : start + PIECE], start + PIECE >= len(text)
        if not is_last and "=" in part:
            raise binascii.Error("Excess data after padding")
        padding = "=" * (-len(part) % 4)
        parts.append(base64.b64decode(part + padding, validate=True))
    return b"".join(parts)


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
    if isinstance(value, list | PackedList):
        return "[...]" if len(value) else "[]"
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{json.dumps(value[:_LONGEST], ensure_ascii=False)}..."
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _LONGEST:
        return "a number of many digits"  # longer ones than Python writes
    return json.dumps(value, ensure_ascii=False)
