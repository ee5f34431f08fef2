"""One request on the server: the record that its log line, its metrics and its answer are made of.

A port makes a `RequestRecord` when the head of a request is there. Whoever serves the request fills
it in, and the port hands it to the telemetry once the answer is out. `current` gives the record of
the running task.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from mlserve.errors import MlserveError
from mlserve.server.errors import error_text
from mlserve.wire.headers import (
    REQUEST_ID,
    SERVER_TIMING,
    STAGES,
    TRACEPARENT,
    read_traceparent,
    write_server_timing,
    write_traceparent,
)

OK = "ok"
CANCELLED = "cancelled"
_REFUSALS = ("overloaded", "access_denied")
_SANE_ID = re.compile(r"[!-~]{1,128}")
_NOT_SAMPLED = "00"
LONGEST_PATH = 256


class Purpose(StrEnum):
    """What a request is for. A probe asks for a state, again and again."""

    PREDICT = "predict"
    METADATA = "metadata"
    PROBE = "probe"
    OTHER = "other"


class Refusal(StrEnum):
    """Why the engine did not start a call."""

    QUEUE_FULL = "queue_full"
    """No place to wait in."""
    DEADLINE = "deadline"
    """By the estimates it could not end in time; told on arrival."""
    TOO_SLOW = "too_slow"
    """By the estimates not even an idle server would end it in time; told on arrival."""
    DISPLACED = "displaced"
    """It was admitted, and work that took longer than estimated left it too little time."""
    EXPIRED = "expired"
    """Its deadline passed before it was started."""
    DRAINING = "draining"
    """The server is about to stop."""
    GONE = "gone"
    """Its client left before it was started."""


class Outcome(StrEnum):
    """How a call that the engine started has ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    """Its deadline passed while it was worked on."""
    GONE = "gone"
    """Its client left while it was worked on."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request came in: `transport` is grpc or rest, `api` tfs, oip or empty.

    `path` is the path of an HTTP request after its method, or the name of a gRPC method, cut to
    `LONGEST_PATH` characters.
    """

    transport: str
    api: str
    purpose: Purpose
    path: str


@dataclass(slots=True)
class StageTimes:
    """Where a request's time went in the server, in seconds.

    `queue` is from admission until a worker takes it up, `decode` and `encode` are the tensors'
    way in and out, `run` is the model. A stage that was not reached is 0.
    """

    queue: float = 0.0
    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0

    def reached(self) -> Iterator[tuple[str, float]]:
        """Each stage that was reached, with its seconds."""
        for name in STAGES:
            if seconds := getattr(self, name):
                yield name, seconds

    def add(self, other: StageTimes) -> None:
        """Adds the times of another part of the same request."""
        for name, seconds in other.reached():
            setattr(self, name, getattr(self, name) + seconds)

    def unreached(self) -> str:
        """The stage that it is in: the first one that has not ended."""
        ended = [name for name, _ in self.reached()]
        return next((name for name in STAGES if name not in ended), STAGES[-1])


@dataclass(frozen=True, slots=True)
class Trace:
    """The server's own span of a trace: ids in lower-case hex, of 32 and 16 digits.

    `parent_id` is the caller's span, empty when the trace begins here. `flags` are the caller's.
    """

    trace_id: str
    span_id: str
    parent_id: str
    flags: str

    @classmethod
    def from_header(cls, traceparent: str | None) -> Trace:
        """A new span in the caller's trace.

        A request without that header, or with one that is not well-formed, begins a trace of its
        own, as the recommendation asks (https://www.w3.org/TR/trace-context/).
        """
        parent = read_traceparent(traceparent) if traceparent else None
        fresh = secrets.token_hex(24)  # both ids at once: each draw is a system call
        span_id = fresh[:16]
        if parent is None:
            return cls(fresh[16:], span_id, "", _NOT_SAMPLED)
        trace_id, parent_id, flags = parent
        return cls(trace_id, span_id, parent_id, flags)

    @property
    def traceparent(self) -> str:
        """The header that names this span."""
        return write_traceparent(self.trace_id, self.span_id, self.flags)


_NOWHERE = Route("", "", Purpose.OTHER, "")
_NO_TRACE = Trace("", "", "", "")


@dataclass(eq=False, slots=True)
class RequestRecord:
    """A request from its arrival to its answer; filled in as it goes on.

    `version`, `model` and `signature` are known once the request has been read. `code` is how it
    ended: ok, an error's kind, or cancelled, which it is until there is an answer; `error` is the
    error's message, cut as the client gets it. `refused` is the engine's reason where it was not
    started.
    """

    request_id: str = ""
    trace: Trace = _NO_TRACE
    route: Route = _NOWHERE
    bytes_in: int = 0
    model: str = ""
    version: int | None = None
    signature: str = ""
    times: StageTimes = field(default_factory=StageTimes)
    code: str = CANCELLED
    error: str = ""
    refused: str = ""
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def arrived(cls, route: Route, header: Callable[[str], str | None]) -> RequestRecord:
        """The record of a request that came in now; `header` gives its headers by lower name."""
        request_id = header(REQUEST_ID) or ""
        if not _SANE_ID.fullmatch(request_id):
            request_id = secrets.token_hex(16)
        return cls(request_id, Trace.from_header(header(TRACEPARENT)), route)

    def answered(self) -> None:
        """Notes that it ended well."""
        self.code = OK

    def failed(self, error: MlserveError) -> None:
        """Notes the error that it ended with."""
        self.code, self.error = _code_of(type(error)), error_text(error)

    def part(self) -> RequestRecord:
        """A part of the request that is a call of its own to the engine, with its own times."""
        return replace(self, times=StageTimes())

    def take_in(self, parts: Sequence[RequestRecord]) -> None:
        """Takes in what is known of the parts: the sum of their times, the first refusal.

        The signature is that of the first part: a request has one.
        """
        for part in parts:
            self.times.add(part.times)
            self.refused = self.refused or part.refused
        if parts:
            first = parts[0]
            self.model, self.version, self.signature = first.model, first.version, first.signature

    @property
    def was_refused(self) -> bool:
        """Whether it was turned away at no cost: by the engine, or for want of a token."""
        return bool(self.refused) or self.code in _REFUSALS

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What every answer says of itself: the id, the server's span, the times so far.

        An answer that is an error has the times of the stages that were reached.
        """
        ids = ((REQUEST_ID, self.request_id), (TRACEPARENT, self.trace.traceparent))
        reached = dict(self.times.reached())
        if reached and self.code == OK:
            reached = asdict(self.times)
        return (*ids, (SERVER_TIMING, write_server_timing(reached))) if reached else ids


def _code_of(error: type[MlserveError]) -> str:
    """The kind of the nearest error in `mlserve.errors`: a few words, whatever is raised."""
    public = next(k for k in error.__mro__ if k.__module__ == MlserveError.__module__)
    code: str = public("").kind
    return code


_CURRENT: ContextVar[RequestRecord | None] = ContextVar("mlserve_request", default=None)


def begin(record: RequestRecord) -> None:
    """Makes this the record of the running task: each port calls it once for each request."""
    _CURRENT.set(record)


def current() -> RequestRecord:
    """The record of the running task; a blank one outside of a request."""
    return _CURRENT.get() or RequestRecord()
