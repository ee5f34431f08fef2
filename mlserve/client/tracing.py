"""Spans of the client's calls, in the OpenTelemetry that the program itself has set up.

A library leaves the set-up to the program: where its spans go, what is sampled and what they are
called is one decision for all that the program does. So the client asks the official API for the
provider that is in force, and records nothing without one. Nothing is imported here: a program that
has set up a provider has imported the API.

A call has a span of its own, and below it each attempt has a span of a client, which is the one
that the server continues.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlserve import __version__
from mlserve.client.call import TRACEPARENT_VARIABLE, Trace
from mlserve.errors import MlserveError
from mlserve.wire.headers import TRACEPARENT, TRACESTATE, read_traceparent, write_traceparent

_API = "opentelemetry.trace"


class CallSpan:
    """The span of one call; `headers` are those of the attempt that is being made."""

    def __init__(self, api: Any, tracer: Any, span: Any) -> None:
        self._api = api
        self._tracer = tracer
        self._span = span
        self._attempt = span
        self._attempts = 0

    @classmethod
    def begin(cls, name: str, model: str | None, parent: str | None) -> CallSpan | None:
        """Begin the span of a call; None if the program has set up no OpenTelemetry.

        It continues the trace of `parent`, a traceparent, else that of the current span, else that
        of the environment.
        """
        api: Any = sys.modules.get(_API)
        if api is None:
            return None
        provider = api.get_tracer_provider()
        if isinstance(provider, api.ProxyTracerProvider):
            return None
        tracer = provider.get_tracer("mlserve", __version__)
        attributes = {"mlserve.model": model} if model else {}
        span = tracer.start_span(
            f"{name} {model}" if model else name,
            context=_context(api, parent),
            attributes=attributes,
        )
        return cls(api, tracer, span) if span.get_span_context().is_valid else None

    @property
    def trace(self) -> Trace:
        """The trace that it belongs to."""
        trace_id, _, flags = _ids(self._span)
        return Trace(trace_id, flags)

    def headers(self) -> dict[str, str]:
        """Return the headers, or gRPC metadata, that name the attempt's span."""
        state = self._attempt.get_span_context().trace_state.to_header()
        named = {TRACEPARENT: write_traceparent(*_ids(self._attempt))}
        return named | {TRACESTATE: state} if state else named

    @contextmanager
    def attempt(
        self, name: str, attributes: Mapping[str, Any], answered: Mapping[str, Any]
    ) -> Iterator[None]:
        """Record the block, which asks the server once, as the span of a client.

        `answered` are the attributes of a span that ends with an answer.
        """
        api, about = self._api, dict(attributes)
        if self._attempts:
            about["http.request.resend_count"] = self._attempts
        self._attempts += 1
        self._attempt = self._tracer.start_span(
            name,
            context=api.set_span_in_context(self._span),
            kind=api.SpanKind.CLIENT,
            attributes=about,
        )
        try:
            with self._ended(self._attempt):
                yield
                self._attempt.set_attributes(answered)
        finally:
            self._attempt = self._span

    @contextmanager
    def recorded(self, request_id: str) -> Iterator[None]:
        """End the span with the block, which makes the call."""
        self._span.set_attribute("mlserve.request_id", request_id)
        with self._ended(self._span):
            yield

    @contextmanager
    def _ended(self, span: Any) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError)
            kind = error.kind if isinstance(error, MlserveError) else type(error).__name__
            span.set_attribute("error.type", "cancelled" if is_cancelled else kind)
            span.set_status(self._api.Status(self._api.StatusCode.ERROR, str(error)))
            raise
        finally:
            span.end()


def _context(api: Any, parent: str | None) -> Any:
    """Return what the call continues; None is the program's current span, if it has one."""
    if parent is None and not api.get_current_span().get_span_context().is_valid:
        parent = os.environ.get(TRACEPARENT_VARIABLE, "")
    found = read_traceparent(parent.strip()) if parent else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found)
    remote = api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=api.TraceFlags(flags))
    return api.set_span_in_context(api.NonRecordingSpan(remote))


def _ids(span: Any) -> tuple[str, str, str]:
    """Return the ids of its trace and of itself, and the flags, as W3C writes them."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}"
