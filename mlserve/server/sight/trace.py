"""The place of a request in a trace.

A request without one, or with one that is not well-formed, begins a trace of its own, as the
recommendation asks (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from mlserve import trace

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
        return trace.traceparent(self.trace_id, self.span_id, self.flags)


def trace_of(traceparent: str | None) -> Trace:
    """A new span in the caller's trace; in a new trace when there is none."""
    parent = trace.read_traceparent(traceparent) if traceparent else None
    fresh = secrets.token_hex(24)  # both ids at once: each draw is a system call
    span_id = fresh[:16]
    if parent is None:
        return Trace(fresh[16:], span_id, "", _NOT_SAMPLED)
    trace_id, parent_id, flags = parent
    return Trace(trace_id, span_id, parent_id, flags)
