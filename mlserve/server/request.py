"""The record of one request, from which its log line, metrics and answer are made.

A port creates a `RequestRecord` as soon as it has the head of a request. The code that serves the
request fills it in, and the port passes it to the telemetry once the answer is sent. `current`
returns the record of the running task.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, either, shortened
from mlserve.ladder.climb import RowRung, in_header
from mlserve.server.errors import error_text
from mlserve.server.peer import PROMPT, UNKNOWN_PEER, Peer
from mlserve.wire.headers import (
    REQUEST_ID,
    REQUEST_PRIORITY,
    RUNG,
    SERVED_BY,
    SERVER_TIMING,
    STAGES,
    TRACEPARENT,
    USER_AGENT,
    over_http,
    read_traceparent,
    write_server_timing,
    write_traceparent,
)

OK = "ok"
CANCELLED = "cancelled"
_REFUSALS = ("overloaded", "access_denied")
_SANE_ID = re.compile(r"[!-~]{1,128}")
_AGENT = re.compile(r"[!-~]{1,64}")
_PRIORITIES = {priority.in_words: priority for priority in Priority}
_NOT_SAMPLED = "00"
_SHORTEST = 1e-6
"""Seconds: a deadline that has passed already is still one."""
SAMPLED = 1
"""The bit of a trace's flags that says it is recorded."""
LONGEST_PATH = 256
_NONE: Mapping[str, str] = MappingProxyType({})


_IDS = random.Random()  # noqa: S311 - an id need only be unlike others; a system call costs more
os.register_at_fork(after_in_child=_IDS.seed)


def _fresh_id(size: int) -> str:
    """Return that many random bytes in lower-case hex."""
    return _IDS.randbytes(size).hex()


class Purpose(StrEnum):
    """What a request is for. A probe asks for a state, repeatedly."""

    PREDICT = "predict"
    METADATA = "metadata"
    PROBE = "probe"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request came in: `transport` is grpc, rest or direct; `api` is tfs, oip or empty.

    `path` is the path of an HTTP request after its method, or the name of a gRPC method, cut to
    `LONGEST_PATH` characters. A direct call, from the server's own process, has the method's name.
    """

    transport: str
    api: str
    purpose: Purpose
    path: str


@dataclass(slots=True)
class StageTimes:
    """How long a request spent in each stage on the server, in seconds.

    `queue` lasts from admission until a worker takes the request, `decode` and `encode` read and
    write the tensors, `run` is the model. A stage that was not reached is 0. `queue_at` and so on
    are when each began, on the machine's monotonic clock; 0 if it did not. The times of a request
    in another process are known once it has ended there.
    """

    queue: float = 0.0
    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0
    queue_at: float = 0.0
    decode_at: float = 0.0
    run_at: float = 0.0
    encode_at: float = 0.0

    @property
    def values(self) -> tuple[float, ...]:
        """All of them, in their order."""
        return (
            *(self.queue, self.decode, self.run, self.encode),
            *(self.queue_at, self.decode_at, self.run_at, self.encode_at),
        )

    def take(self, values: tuple[float, ...]) -> None:
        """Take the values of another."""
        self.queue, self.decode, self.run, self.encode = values[:4]
        self.queue_at, self.decode_at, self.run_at, self.encode_at = values[4:]

    def reached(self) -> Iterator[tuple[str, float]]:
        """Yield each stage that was reached, with its seconds."""
        for name in STAGES:
            if seconds := getattr(self, name):
                yield name, seconds

    def add(self, other: StageTimes) -> None:
        """Add the times of another part of the same request."""
        for name, seconds in other.reached():
            setattr(self, name, getattr(self, name) + seconds)

    def unreached(self) -> str:
        """Return the current stage: the first one that has not ended."""
        ended = [name for name, _ in self.reached()]
        return next((name for name in STAGES if name not in ended), STAGES[-1])


@dataclass(frozen=True, slots=True)
class Span:
    """The server's own span of a trace; ids in lower-case hex of 32 and 16 digits.

    `parent_id` is the caller's span, empty when the trace begins here. `flags` are the caller's,
    until a sampler has decided whether the span is recorded; `state` is the caller's tracestate, if
    it is.
    """

    trace_id: str
    span_id: str
    parent_id: str
    flags: str
    state: str = ""

    @classmethod
    def from_header(cls, traceparent: str | None) -> Span:
        """Start a span in the caller's trace.

        Without a well-formed header the request starts a trace of its own, as the recommendation
        asks (https://www.w3.org/TR/trace-context/).
        """
        parent = read_traceparent(traceparent) if traceparent else None
        fresh = _fresh_id(24)
        span_id = fresh[:16]
        if parent is None:
            return cls(fresh[16:], span_id, "", _NOT_SAMPLED)
        trace_id, parent_id, flags = parent
        return cls(trace_id, span_id, parent_id, flags)

    @property
    def is_sampled(self) -> bool:
        """Whether it is recorded."""
        return int(self.flags or "0", 16) & SAMPLED != 0

    @property
    def traceparent(self) -> str:
        """The header value that names this span."""
        return write_traceparent(self.trace_id, self.span_id, self.flags)


@dataclass(eq=False, slots=True)
class Sample:
    """The bytes of a request that a recording keeps, and of its answer; over gRPC the messages.

    `takes` says whether there is room for so many more bytes, which are then counted. The headers
    say what the bytes are. `size` is how many bytes are kept.
    """

    takes: Callable[[int], bool]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: bytes | None = None
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    size: int = 0

    def keep_body(self, body: bytes | bytearray, headers: Mapping[str, str] = _NONE) -> None:
        """Keep the body, as it was sent, if there is room for it.

        What was received in parts is copied: a model may write to the arrays that are made of it.
        """
        if self.takes(len(body)):
            self.body, self.headers = bytes(body), headers
            self.size += len(body)

    def keep_answer(self, answer: bytes, headers: Mapping[str, str] = _NONE) -> None:
        """Keep the answer, if its body was kept and there is room for it."""
        if self.body is not None and self.takes(len(answer)):
            self.answer, self.answer_headers = answer, headers
            self.size += len(answer)


_NOWHERE = Route("", "", Purpose.OTHER, "")
_NO_SPAN = Span("", "", "", "")


@dataclass(eq=False, slots=True)
class RequestRecord:
    """A request from arrival to answer, filled in along the way.

    `version`, `model` and `signature` are known once the request has been read. `code` is the
    result: ok, an error's kind, or cancelled, which it is until there is an answer. `status` is the
    answer's HTTP status or gRPC code, empty without an answer. `error` is the error's message, cut
    as the client gets it. `refused` is the engine's reason for not starting it. `served_by` is what
    ran it, and `rungs` are those that answered each row on a ladder. `caller` and `priority` are
    what admission goes by. `times` are the sum of those of its `parts`, where it has some. `arm` is
    the version that a split gave it to; None if there is no split, or if it named a version.
    `deadline` is how many seconds the caller allowed when it asked, 0 if it set no deadline.
    `sample` holds its bytes, if they are recorded. `is_probe`: it only tries whether the server
    answers. `peer` is what the kernel knows of the client.
    `began` is when the request had arrived, even if it was read later.
    """

    request_id: str = ""
    span: Span = _NO_SPAN
    route: Route = _NOWHERE
    bytes_in: int = 0
    model: str = ""
    version: int | None = None
    signature: str = ""
    times: StageTimes = field(default_factory=StageTimes)
    parts: tuple[StageTimes, ...] = ()
    code: str = CANCELLED
    status: str = ""
    error: str = ""
    refused: str = ""
    served_by: str = ""
    rungs: tuple[RowRung, ...] = ()
    caller: Caller = UNKNOWN_CALLER
    priority: Priority = Priority.DEFAULT
    arm: int | None = None
    began: float = field(default_factory=time.monotonic)
    deadline: float = 0.0
    sample: Sample | None = None
    is_probe: bool = False
    peer: Peer = UNKNOWN_PEER

    @classmethod
    def arrived(
        cls,
        route: Route,
        header: Callable[[str], str | None],
        address: str = "",
        peer: Peer = UNKNOWN_PEER,
    ) -> RequestRecord:
        """Create the record of a new request; `header` returns a header by lower-case name.

        `address` is the peer's IP address, empty if it has none.
        """
        began = time.monotonic() - peer.waited()
        request_id = header(REQUEST_ID) or ""
        if not _SANE_ID.fullmatch(request_id):
            request_id = _fresh_id(16)
        agent = _AGENT.match(header(USER_AGENT) or "")
        caller = Caller(route.transport, agent[0] if agent else "", address)
        span = Span.from_header(header(TRACEPARENT))
        return cls(request_id, span, route, caller=caller, began=began, peer=peer)

    def named(self, token: str) -> None:
        """Note that its caller has the token of that name."""
        self.caller = self.caller._replace(token=token)

    def take_priority(self, header: Callable[[str], str | None]) -> None:
        """Note how important the caller says that its call is. Raises InvalidInput."""
        text = header(REQUEST_PRIORITY)
        if text:  # a proxy may set it to a variable that is empty
            self.priority = _priority(text)

    def take_deadline(self, deadline: Deadline) -> None:
        """Note how long the caller waits, if it says so."""
        self.deadline = max(deadline.timeout, _SHORTEST) if deadline.is_asked else 0.0

    def has_waited(self) -> bool:
        """Return whether it had arrived some time before now: its client may have left since."""
        return time.monotonic() - self.began > PROMPT

    def answered(self) -> None:
        """Record success."""
        self.code = OK

    def failed(self, error: MlserveError) -> None:
        """Record the error that ended the request."""
        self.code, self.error = _code_of(type(error)), error_text(error)

    def part(self) -> RequestRecord:
        """Return a record with times of its own, for a part that is its own call to the engine."""
        return replace(self, times=StageTimes())

    def take_in(self, parts: Sequence[RequestRecord]) -> None:
        """Merge the parts: the sum of their times, the first refusal, and the model.

        The signature is that of the first part, as a request has only one.
        """
        self.parts = tuple(part.times for part in parts)
        for part in parts:
            self.times.add(part.times)
            self.refused = self.refused or part.refused
            self.rungs += part.rungs
        if parts:
            first = parts[0]
            self.model, self.version, self.signature = first.model, first.version, first.signature
            self.served_by = first.served_by

    @property
    def was_refused(self) -> bool:
        """Whether it was turned away at no cost: by the engine, or for lack of a token."""
        return bool(self.refused) or self.code in _REFUSALS

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of every answer: the id, the server's span, and the times so far.

        An error's answer has the times of the stages that were reached.
        """
        ids: tuple[tuple[str, str], ...] = (
            (REQUEST_ID, self.request_id),
            (TRACEPARENT, self.span.traceparent),
        )
        if self.served_by:
            ids = (*ids, (self._own(SERVED_BY), self.served_by))
        if self.rungs:
            ids = (*ids, (self._own(RUNG), in_header(self.rungs)))
        reached = dict(self.times.reached())
        if reached and self.code == OK:
            reached = {name: getattr(self.times, name) for name in STAGES}
        return (*ids, (SERVER_TIMING, write_server_timing(reached))) if reached else ids

    def _own(self, key: str) -> str:
        """Return one of mlserve's own keys as this request's transport has it."""
        return key if self.route.transport == "grpc" else over_http(key)


def _priority(text: str) -> Priority:
    """Return the priority of that name, in any case. Raises InvalidInput."""
    priority = _PRIORITIES.get(text.strip().lower())
    if priority is None:
        raise InvalidInput(
            f"{REQUEST_PRIORITY} must be {either(list(_PRIORITIES))}, not {shortened(text)!r}"
        )
    return priority


_CODES: dict[type[MlserveError], str] = {}


def _code_of(error: type[MlserveError]) -> str:
    """Return the kind of the nearest error in `mlserve.errors`, so that codes stay few."""
    code = _CODES.get(error)
    if code is None:
        public = next(k for k in error.__mro__ if k.__module__ == MlserveError.__module__)
        code = _CODES[error] = public("").kind
    return code


_CURRENT: ContextVar[RequestRecord | None] = ContextVar("mlserve_request", default=None)


def begin(record: RequestRecord) -> None:
    """Make this the running task's record; each port does so once for each request."""
    _CURRENT.set(record)


def current() -> RequestRecord:
    """Return the running task's record; a blank one outside a request."""
    return _CURRENT.get() or RequestRecord()
