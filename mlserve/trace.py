"""W3C Trace Context's `traceparent`, as text: https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re

TRACEPARENT = "traceparent"
"""The header, and the key in gRPC's metadata."""
_FORM = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}"  # a version: never ff, and 00 has no more than its 55 characters
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


def read_traceparent(text: str) -> tuple[str, ...] | None:
    """The trace id (32 hex digits), the caller's span id (16), the flags (2); None: malformed."""
    found = _FORM.fullmatch(text)
    return None if found is None else found.groups()


def traceparent(trace_id: str, span_id: str, flags: str) -> str:
    """The header that names that span."""
    return f"00-{trace_id}-{span_id}-{flags}"
