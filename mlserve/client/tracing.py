"""The names of a call in the logs of all who take part: a request id, and W3C's traceparent."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from mlserve.errors import UsageError
from mlserve.trace import TRACEPARENT, read_traceparent, traceparent

REQUEST_ID = "x-request-id"
_VARIABLE = "TRACEPARENT"
_SAMPLED = "01"


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace of calls. `id` is 32 hexadecimal digits, `flags` is W3C's two."""

    id: str
    flags: str = _SAMPLED

    @classmethod
    def following(cls, parent: str | None) -> Trace:
        """The trace of that traceparent; None takes the environment's, or else begins a new one.

        A malformed one of the environment is passed over, as W3C says. Raises UsageError for a
        malformed `parent`.
        """
        text = os.environ.get(_VARIABLE, "") if parent is None else parent
        if text and (found := read_traceparent(text.strip())):
            trace_id, _, flags = found
            return cls(trace_id, flags)
        if parent is not None:
            raise UsageError(
                f"{parent!r} is no traceparent",
                hint="W3C's form is 00-<32 hex digits>-<16 hex digits>-01",
            )
        return cls(_hexadecimal(16))


@dataclass(frozen=True, slots=True)
class CallIds:
    """What a call is known by: its trace and a request id of its own, kept when it is repeated."""

    trace: Trace
    request_id: str = field(default_factory=lambda: _hexadecimal(16))

    def headers(self) -> dict[str, str]:
        """The headers, or gRPC metadata, of one attempt: each has a span of its own."""
        span = traceparent(self.trace.id, _hexadecimal(8), self.trace.flags)
        return {REQUEST_ID: self.request_id, TRACEPARENT: span}


def _hexadecimal(size: int) -> str:
    """That many random bytes as text; all zeros, which W3C forbids, does not come up."""
    return os.urandom(size).hex()
