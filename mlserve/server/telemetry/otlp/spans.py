"""Spans in OpenTelemetry's model, made of the records of requests that have ended.

Names and attributes are those of the semantic conventions for HTTP and RPC
(https://opentelemetry.io/docs/specs/semconv/); what they do not know is called `mlserve.`, and then
as the log calls it.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from mlserve import __version__
from mlserve.ladder.climb import in_header
from mlserve.server.request import CANCELLED, RequestRecord, Route, Span, StageTimes
from mlserve.wire.headers import STAGES

SCOPE = InstrumentationScope("mlserve", __version__)
"""Who made the spans and the metrics."""
_MOST_PARTS = 16
"""The most parts of a request whose stages are shown."""
_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
_GRPC_FAULTS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""The codes that the conventions call errors of a server."""
_LEAST_FAULT = 500
"""The least HTTP status that they call one."""
_UNANSWERED = {CANCELLED: "CANCELLED", "deadline_exceeded": "DEADLINE_EXCEEDED"}
"""gRPC's code of calls whose client did not wait for one."""
_NAMED = re.compile(r"(/v1/models/)[^/:]+|(/v2/(?:repository/)?models/)[^/]+")
_VERSIONED = re.compile(r"/(versions|labels)/[^/:]+")
_ids = random.Random()  # noqa: S311 - an id need only be unlike others

Attributes = dict[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """A request as it was when it ended: work that outlives it does not change `times`."""

    record: RequestRecord
    seconds: float
    times: tuple[StageTimes, ...]

    @classmethod
    def of(cls, record: RequestRecord, seconds: float) -> EndedRequest:
        """Take the times of a request, or of its parts, as they are now."""
        times = record.parts[:_MOST_PARTS] or (record.times,)
        return cls(record, seconds, tuple(map(_copied, times)))

    @property
    def spans(self) -> int:
        """How many spans it has: its own, and one for each stage."""
        return 1 + sum(1 for times in self.times for _ in _stages(times))


def _copied(times: StageTimes) -> StageTimes:
    copy = StageTimes()
    copy.take(times.values)
    return copy


def _stages(times: StageTimes) -> Iterator[tuple[str, float, float]]:
    """Yield each stage that has begun: when, and its seconds; 0 for one that had not ended."""
    for name in STAGES:
        if began := getattr(times, f"{name}_at"):
            yield name, began, getattr(times, name)


class SpanMaker:
    """Makes the spans of one server. `is_secure`: its REST port speaks TLS."""

    def __init__(self, resource: Resource, *, is_secure: bool) -> None:
        self._resource = resource
        self._scheme = "https" if is_secure else "http"

    def spans_of(self, ended: EndedRequest) -> list[ReadableSpan]:
        """Return the request's span, and below it one for each stage that it reached."""
        record = ended.record
        # Both clocks are read here, so that a clock that is set moves a whole trace.
        epoch = time.time_ns() - time.monotonic_ns()
        began, ends = record.began, record.began + ended.seconds
        context = _context(record.span, int(record.span.span_id, 16))
        kind = SpanKind.SERVER if record.route.transport != "direct" else SpanKind.INTERNAL
        status = _status(record)
        whole = ReadableSpan(
            name=_name(record.route, record.model),
            context=context,
            parent=_parent(record.span),
            resource=self._resource,
            attributes=self._attributes(record, status),
            kind=kind,
            status=status,
            start_time=_nanoseconds(began, epoch),
            end_time=_nanoseconds(ends, epoch),
            instrumentation_scope=SCOPE,
        )
        return [whole, *self._stages_of(ended, context, ends, epoch)]

    def _stages_of(
        self, ended: EndedRequest, parent: SpanContext, ends: float, epoch: int
    ) -> Iterator[ReadableSpan]:
        for number, times in enumerate(ended.times):
            for name, began, seconds in _stages(times):
                attributes: Attributes = {}
                if len(ended.times) > 1:
                    attributes["mlserve.part"] = number
                if not seconds:
                    attributes["mlserve.unfinished"] = True
                yield ReadableSpan(
                    name=name,
                    context=_context(ended.record.span, _ids.getrandbits(64) or 1),
                    parent=parent,
                    resource=self._resource,
                    attributes=attributes,
                    kind=SpanKind.INTERNAL,
                    start_time=_nanoseconds(began, epoch),
                    end_time=_nanoseconds(min(began + seconds, ends) if seconds else ends, epoch),
                    instrumentation_scope=SCOPE,
                )

    def _attributes(self, record: RequestRecord, status: Status) -> Attributes:
        route = record.route
        about = _about_rpc(record) if route.transport == "grpc" else {}
        if route.transport == "rest":
            about = _about_http(record) | {"url.scheme": self._scheme}
        if status.status_code is StatusCode.ERROR:
            about["error.type"] = record.code
        own: dict[str, AttributeValue | None] = {
            "mlserve.request_id": record.request_id,
            "mlserve.code": record.code,
            "mlserve.refused": record.refused,
            "mlserve.api": route.api,
            "mlserve.model": record.model,
            "mlserve.version": record.version,
            "mlserve.signature": record.signature,
            "mlserve.served_by": record.served_by,
            "mlserve.rung": in_header(record.rungs) if record.rungs else "",
            "mlserve.token": record.caller.token,
            "mlserve.bytes_in": record.bytes_in,
        }
        return about | {name: value for name, value in own.items() if value not in ("", None)}


def _context(span: Span, span_id: int) -> SpanContext:
    return SpanContext(
        int(span.trace_id, 16), span_id, False, TraceFlags(int(span.flags, 16)), state_of(span)
    )


def _parent(span: Span) -> SpanContext | None:
    """Return the caller's span; None for a trace that begins here."""
    return parent_of(span) if span.parent_id else None


def parent_of(span: Span) -> SpanContext:
    """Return the span of a caller who sent one."""
    return SpanContext(
        *(int(span.trace_id, 16), int(span.parent_id, 16), True),
        *(TraceFlags(int(span.flags, 16)), state_of(span)),
    )


def state_of(span: Span) -> TraceState | None:
    """Return what vendors have noted in the trace, if the caller sent any of it."""
    return TraceState.from_header([span.state]) if span.state else None


def _nanoseconds(at: float, epoch: int) -> int:
    """Return a time of the monotonic clock as OpenTelemetry has it, since 1970."""
    return round(at * 1e9) + epoch


def _name(route: Route, model: str) -> str:
    if route.transport == "grpc":
        return route.path.removeprefix("/")
    if route.transport == "direct":
        return f"{route.path} {model}" if model else route.path
    method = _method(route)
    found = http_route(route)
    return f"{method} {found}" if found else method


def _about_http(record: RequestRecord) -> Attributes:
    route = record.route
    method, _, path = route.path.partition(" ")
    about: Attributes = {"http.request.method": _method(route), "url.path": path}
    if method not in _METHODS:
        about["http.request.method_original"] = method
    if found := http_route(route):
        about["http.route"] = found
    if record.status and record.code != CANCELLED:
        about["http.response.status_code"] = int(record.status)
    return about


def _about_rpc(record: RequestRecord) -> Attributes:
    return {
        "rpc.system.name": "grpc",
        "rpc.system": "grpc",  # the older name, which many tools look for
        "rpc.method": record.route.path.removeprefix("/"),
        "rpc.response.status_code": _rpc_code(record),
    }


def _rpc_code(record: RequestRecord) -> str:
    return record.status or _UNANSWERED.get(record.code, "UNKNOWN")


def _method(route: Route) -> str:
    method = route.path.partition(" ")[0]
    return method if method in _METHODS else "_OTHER"


def _status(record: RequestRecord) -> Status:
    """Return an error where the conventions call it one of the server: no bad request is."""
    transport = record.route.transport
    if transport == "grpc":
        is_fault = _rpc_code(record) in _GRPC_FAULTS
    elif transport == "rest":
        is_fault = record.status.isdecimal() and int(record.status) >= _LEAST_FAULT
    else:
        is_fault = record.code != "ok"
    return Status(StatusCode.ERROR, record.error) if is_fault else Status()


def http_route(route: Route) -> str:
    """Return the path with placeholders for names and versions; empty for one that is not served.

    `/v1/models/{model}/versions/{version}:predict`: few, however many paths callers ask for.
    """
    return _template(route.path.partition(" ")[2]) if route.api else ""


@lru_cache(256)
def _template(path: str) -> str:
    named = _NAMED.sub(lambda found: f"{found[1] or found[2]}{{model}}", path)
    return _VERSIONED.sub(lambda found: f"/{found[1]}/{{{found[1].removesuffix('s')}}}", named)
