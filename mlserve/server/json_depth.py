"""How deep JSON is nested, told before it is parsed: a parser recurses."""

from __future__ import annotations

import numpy as np  # noqa: TID253

from mlserve.errors import InvalidInput
from mlserve.settings import flag_of

_KEPT = b'"[]{}'
_DROPPED = bytes(set(range(256)) - set(_KEPT))
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_BETWEEN = 0x5C
"""The number between those of `[` and `]`: what is left of it after a bracket is 1 or -1."""


def check_depth(text: str, limit: int) -> None:
    """Raises InvalidInput for JSON of more levels than that, without parsing it.

    What is not JSON is left to the parser.
    """
    if text.count("[") + text.count("{") > limit and depth_of(text) > limit:
        raise too_deep(limit)


def too_deep(limit: int) -> InvalidInput:
    """The error of JSON of more levels than that."""
    return InvalidInput(
        f"JSON Parse error: nested deeper than {limit} levels, the most that this server takes "
        f"({flag_of('max_json_depth')})"
    )


def depth_of(text: str) -> int:
    """The most brackets that are open at once, those in strings left out.

    Each step is one pass over the text in C: 64 MB of brackets take no longer than parsing them.
    """
    data = text.encode("utf-8", "replace")
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # so that each quote left is a real one
    data = data.translate(_TO_SQUARE, _DROPPED)
    data = data.replace(b'""', b"")  # two quotes side by side change nothing for the others
    if b'"' in data:
        data = b"".join(data.split(b'"')[::2])
    if not data:
        return 0
    steps = np.subtract(_BETWEEN, np.frombuffer(data, np.int8), dtype=np.int8)
    return int(np.cumsum(steps, dtype=np.int32).max())
