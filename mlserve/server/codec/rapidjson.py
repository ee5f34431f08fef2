"""Parse JSON bodies like RapidJSON, which TensorFlow Serving and Triton use.

It differs from Python's parser: numbers may be infinite or NaN (`kParseNanAndInfFlag`), also
spelled `Inf` and `-NaN`, and if an object has a key twice, the first one counts. Error messages
begin with TensorFlow Serving's wording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from mlserve.errors import InvalidInput
from mlserve.server.body_memory import PIECE, UNBOUNDED, Room
from mlserve.server.codec.json_cut import cut_strings
from mlserve.server.codec.json_lists import PackedList
from mlserve.server.codec.json_outline import check_depth
from mlserve.server.codec.json_parser import after_blanks, finite, has_large_exponent, raw_decode

Scan = Callable[[str, int], tuple[Any, int]]

_SHORT = ("Inf", "-Inf", "-NaN")
"""The spellings that Python does not accept."""
_STRING_OR_SHORT = re.compile(
    r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|(?P<inf>Inf(?!inity))|(?P<nan>-NaN)', re.DOTALL
)
"""A string, to be left alone, or such a spelling. Linear: no text is matched twice."""
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
_LONGEST_SHOWN = 100
_PARSED_AT_ONCE = 2 * PIECE
"""Characters up to which a text is parsed at once: enough for a 96 kB image in base64."""
JSON_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number with a fraction or an exponent",
    bool: "a boolean",
    type(None): "null",
    dict: "an object",
}
"""Names, for errors, of the types of values other than lists."""


def parse_body(
    text: str,
    *,
    max_depth: int,
    ignores_rest: bool = True,
    most_rows: int | None = None,
    room: Room = UNBOUNDED,
) -> dict[str, Any]:
    """Parse the JSON object at the start of a body; with `ignores_rest`, anything may follow it.

    Long lists in a long text become PackedLists. Raises InvalidInput with the position of the
    fault, or for more than `max_depth` levels; InputTooLarge for a long text with more than
    `most_rows` instances; and what `room` raises.
    """
    try:
        body, end = _parsed(text, max_depth=max_depth, most_rows=most_rows, room=room)
        if not ignores_rest and after_blanks(text, end) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        raise InvalidInput(_parse_problem(error)) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or an overlong number
        raise InvalidInput(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInput(
            f"JSON Value: {shown(body)} Is not object: it is "
            f"{JSON_NAMES.get(type(body), 'a list')}, not an object"
        )
    return body


def _parsed(text: str, *, max_depth: int, most_rows: int | None, room: Room) -> tuple[Any, int]:
    """Return the first value of the text, and where it ends. Raises what `parse_body` raises."""
    if (cut := cut_strings(text, _PARSED_AT_ONCE)) is not None:
        if len(text) > _PARSED_AT_ONCE:
            room.take(len(text))
        try:
            body, end = _parsed(cut.rest, max_depth=max_depth, most_rows=most_rows, room=room)
            return cut.restored(body), cut.place_of(end)
        except (ValueError, RecursionError):
            pass  # the error must say where it is in the whole text
    start = after_blanks(text, 0)
    decoder = _FINITE if has_large_exponent(text) else _DECODER
    if len(text) - start > _PARSED_AT_ONCE:
        return raw_decode(decoder, text, start, room, max_depth=max_depth, most_rows=most_rows)
    check_depth(text, max_depth)
    return decoder.raw_decode(text, start)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return these pairs as an object; if a name occurs twice, the first value counts."""
    last = dict(pairs)
    return last if len(last) == len(pairs) else dict(reversed(pairs))


class Decoder(json.JSONDecoder):
    """Python's decoder, with RapidJSON's spellings and its choice among equal keys."""

    def __init__(self, *, parse_float: Callable[[str], Any] | None = None) -> None:
        super().__init__(object_pairs_hook=_first_wins, parse_float=parse_float)
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
        """Parse the value at `place`, after replacing the spellings that Python does not accept."""
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
    """Return where the list, object or other value at `place` ends."""
    if text[place] not in "[{":
        match = _STRING_OR_SHORT.match(text, place + text.startswith("-Inf", place))
        return len(text) if match is None else match.end()
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text, place):
        depth += _STEPS.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _before_spelling(written: str, place: int) -> int:
    """Map a position in the spelled-out text back to the text as written."""
    for match in _STRING_OR_SHORT.finditer(written):
        if match.start() >= place:
            break
        place -= len(_written_out(match)) - len(match[0])
    return place


def _written_out(match: re.Match[str]) -> str:
    if match["inf"]:
        return "Infinity"
    return "NaN" if match["nan"] else match[0]


_DECODER = Decoder()
_FINITE = Decoder(parse_float=finite)


def _parse_problem(error: json.JSONDecodeError) -> str:
    """Return TensorFlow Serving's message for invalid JSON, followed by Python's own."""
    if not error.doc.strip():
        return "JSON Parse error: The document is empty"
    reason = next((ours for theirs, ours in _REASONS.items() if error.msg.startswith(theirs)), None)
    return f"JSON Parse error: {reason or 'Invalid value.'} at offset: {error.pos} ({error})"


def type_of_value(value: Any) -> str:
    """Return RapidJSON's name for the type of a JSON value."""
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def shown(value: Any) -> str:
    """Return a JSON value as written, shortened to fit a message."""
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, list | PackedList):
        return "[...]" if len(value) else "[]"
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return f"{json.dumps(value[:_LONGEST_SHOWN], ensure_ascii=False)}..."
    if type(value) is int and value.bit_length() > _LONGEST_SHOWN:
        return "a number of many digits"  # Python refuses to write very long ones
    return json.dumps(value, ensure_ascii=False)
