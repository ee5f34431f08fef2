"""What a server says of where a request's time went: the header `Server-Timing` (W3C)."""

from __future__ import annotations

import math
from collections.abc import Mapping

SERVER_TIMING = "server-timing"
"""The HTTP header, and the key of the gRPC metadata with the same value."""
PARTS = ("queue", "decode", "run", "encode")


def read_server_timing(text: str) -> Mapping[str, float]:
    """Milliseconds by part, such as {"queue": 1.2, ...}; empty unless all parts are there.

    Other metrics, as proxies add them, are passed over.
    """
    found: dict[str, float] = {}
    for metric in text.split(","):
        name, *parameters = (piece.strip() for piece in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if name in PARTS and key.strip().lower() == "dur":
                found[name] = _milliseconds(value)
    is_whole = all(math.isfinite(found.get(part, math.nan)) for part in PARTS)
    return found if is_whole else {}


def _milliseconds(text: str) -> float:
    """NaN for what is no time."""
    try:
        value = float(text.strip().strip('"'))
    except ValueError:
        return math.nan
    return value if value >= 0 else math.nan
