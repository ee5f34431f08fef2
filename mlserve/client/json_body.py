"""JSON answers: parsed, or named as what they are not."""

from __future__ import annotations

import json
from typing import Any

from mlserve.client.refusals import Unreadable


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Unreadable."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON", excerpt(body)) from error
    if not isinstance(data, dict):
        raise Unreadable("a JSON object", excerpt(body))
    return data


def excerpt(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = body[:200].decode(errors="backslashreplace")
    return repr(text) + (f" ... ({len(body)} bytes)" if len(body) > len(text) else "")
