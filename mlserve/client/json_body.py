"""JSON answers: parsed, or named as what they are not."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from mlserve.client.refusals import Unreadable

MOST_VALUES = 1_000_000
"""More values than an answer about one image or one model has. Each takes 60 to 230 bytes once it
is parsed, and nothing else of the process runs until all are."""
_BEFORE_A_VALUE = (b",", b"[", b"{")


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Unreadable."""
    data = parse_any(body)
    if not isinstance(data, dict):
        raise Unreadable("a JSON object", excerpt(body))
    return data


def parse_any(body: bytes) -> Any:
    """The JSON value in `body`. Raises Unreadable, for more than `MOST_VALUES` values too."""
    if sum(map(body.count, _BEFORE_A_VALUE)) > MOST_VALUES:
        raise Unreadable(f"JSON of at most {MOST_VALUES} values", excerpt(body))
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON", excerpt(body)) from error


def excerpt(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = body[:200].decode(errors="backslashreplace")
    return repr(text) + (f" ... ({len(body)} bytes)" if len(body) > len(text) else "")


def shown(value: Any) -> str:
    """A value of an answer for a message, however wide or deep it is."""
    return reprlib.repr(value)
