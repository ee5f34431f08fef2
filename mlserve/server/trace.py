"""The place of a request in a trace: W3C Trace Context's `traceparent`, read and written.

A request without one, or with one that is not well-formed, begins a trace of its own, as the
recommendation asks (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_NOT_SAMPLED = "00"


@dataclass(frozen=True, slots=True)
class Trace:
    """The server's own span of a trace: ids in lower-case hex, of 32 and 16 digits.

    `parent_id` is the caller's span, empty when the trace begins here. `flags` are the caller's.
    """

    trace_id: str
    span_id: str
    parent_id: str
    flags: str

    @property
    def traceparent(self) -> str:
        """The header that names this span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def trace_of(traceparent: str | None) -> Trace:
    """A new span in the caller's trace; in a new trace when there is none."""
    found = _HEADER.fullmatch(traceparent or "")
    span_id = secrets.token_hex(8)
    if found is None or not _is_valid(found):
        return Trace(secrets.token_hex(16), span_id, "", _NOT_SAMPLED)
    return Trace(found[2], span_id, found[3], found[4])


def _is_valid(found: re.Match[str]) -> bool:
    """Whether the ids are some, and version 00 has no more than its four fields."""
    has_more = found[5] is not None
    return found[2] != _NO_TRACE and found[3] != _NO_SPAN and not (has_more and found[1] == "00")
