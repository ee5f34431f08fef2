"""Send a server's spans and metrics to a collector, on threads of their own.

A request costs the event loop a decision of the sampler and a place in a queue. Two threads do the
rest: one makes and sends the spans, in batches, the other the metrics, at intervals. A collector
that is slow or away costs no request anything: what has no place in the queue, and what could not
be sent, is counted, and told in the log once in a while.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from mlserve import otlp_sdk
from mlserve.background import start_on_daemon_thread
from mlserve.errors import shortened
from mlserve.otlp import CollectorAddress
from mlserve.otlp_answers import LONGEST_REASON, Answers
from mlserve.server.request import SAMPLED, Purpose, RequestRecord, Span
from mlserve.server.telemetry.otlp.families import metrics_data
from mlserve.server.telemetry.otlp.spans import EndedRequest, SpanMaker, parent_of
from mlserve.wire.headers import TRACESTATE

_log = logging.getLogger(__name__)

_SERVICE = "mlserve"
_LONGEST_STATE = 512
"""Characters of a tracestate that are passed on, which the recommendation asks for at least."""
_MOST_STATES = 32
_MEMBER = re.compile(
    r"(?:[a-z][-_0-9a-z*/]{0,255}|[a-z0-9][-_0-9a-z*/]{0,240}@[a-z][-_0-9a-z*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
"""A member of a tracestate as W3C has it: the SDK logs a warning for any other."""
_QUEUE = 16_384
"""Spans that may wait; the SDK's own 2,048 are those of a tenth of a second under full load."""
_BATCH = 512
_DELAY = 5000
_INTERVAL = 60_000
_WINDOW = 60.0
"""Seconds in which a collector that does not answer gets one line in the log."""
_GRACE = 2.0
"""Seconds that the end of the server waits for a collector that does not answer."""
_LOOP_SECONDS = 5.0
"""Seconds that the thread of the metrics waits for the event loop to read them."""
_NOT_SENT = "%s not sent to %s: %s"
_MOST_SPANS = 5
"""Spans of a request, but for the few that have parts."""

Header = Callable[[str], str | None]


class OtlpExport(Collector):
    """The export of one server; it decides which requests are traced, and observes them.

    All methods are for the event loop that it was made on, but for those that say otherwise.
    """

    def __init__(
        self, collector: CollectorAddress, registry: CollectorRegistry, *, is_secure: bool
    ) -> None:
        """`is_secure`: the server's REST port speaks TLS."""
        self._sampler = otlp_sdk.sampler()
        resource = otlp_sdk.resource_of(_SERVICE)
        self._spans = _SpanThread(collector, SpanMaker(resource, is_secure=is_secure))
        self._metrics = _MetricThread(collector, registry, resource)
        self._sends_spans = otlp_sdk.is_wanted("TRACES")
        self._sends_metrics = otlp_sdk.is_wanted("METRICS")
        registry.register(self)
        if self._sends_spans:
            self._spans.start()
        if self._sends_metrics:
            self._metrics.start()
        protocol = "gRPC" if collector.speaks_grpc else "HTTP"
        sent = [*["spans"] * self._sends_spans, *["metrics"] * self._sends_metrics]
        _log.info("otlp: %s go to %s over %s", " and ".join(sent) or "nothing", collector, protocol)

    def decide(self, record: RequestRecord, header: Header) -> None:
        """Ask the SDK's sampler whether to record the request."""
        if record.route.purpose is Purpose.PROBE or not self._sends_spans:
            return
        span = record.span
        if span.parent_id and (state := header(TRACESTATE)):
            span = _with_state(span, state)
        is_sampled = self._asks_for(span, record.route.path)
        flags = int(span.flags, 16)
        wanted = flags | SAMPLED if is_sampled else flags & ~SAMPLED
        if wanted != flags:
            span = replace(span, flags=f"{wanted:02x}")
        record.span = span

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """Queue the spans of a request that ended, if it is recorded."""
        is_traced = self._sends_spans and record.route.purpose is not Purpose.PROBE
        if is_traced and record.span.is_sampled:
            self._spans.add(record, seconds)

    async def close(self, give_up: float) -> None:
        """Send what waits and the last metrics, until `give_up` on the monotonic clock.

        A collector that does not answer gets two seconds.
        """
        threads = []
        if self._sends_spans:
            threads.append(self._spans.end(give_up))
        if self._sends_metrics:
            threads.append(self._metrics.end(give_up))
        if threads:
            await asyncio.gather(*threads)

    def collect(self) -> Iterator[Family]:
        """Yield the counters of what was sent, and what was lost."""
        spans, metrics = self._spans, self._metrics
        yield CounterMetricFamily(
            "mlserve_otlp_spans_sent", "Spans that the collector has taken.", spans.sent
        )
        lost = CounterMetricFamily(
            "mlserve_otlp_spans_lost",
            "Spans that the collector has not: queue_full, not_sent by an export that failed, "
            "rejected by the collector.",
            labels=("reason",),
        )
        lost.add_metric(("queue_full",), spans.crowded_out)
        lost.add_metric(("not_sent",), spans.not_sent)
        lost.add_metric(("rejected",), spans.rejected)
        failed = CounterMetricFamily(
            "mlserve_otlp_exports_failed", "Exports that failed, by signal.", labels=("signal",)
        )
        failed.add_metric(("traces",), spans.failures)
        failed.add_metric(("metrics",), metrics.failures)
        yield from (lost, failed)

    def _asks_for(self, span: Span, path: str) -> bool:
        parent = Context()  # not None, which is the current one: of an application around us
        if span.parent_id:
            parent = set_span_in_context(NonRecordingSpan(parent_of(span)), parent)
        asked = self._sampler.should_sample(
            parent, int(span.trace_id, 16), path, kind=SpanKind.SERVER
        )
        return asked.decision is Decision.RECORD_AND_SAMPLE


def _with_state(span: Span, state: str) -> Span:
    """Return the span with the caller's tracestate, if the SDK would find no fault in it.

    A long one loses what stands at its end, where the oldest systems are.
    """
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(keys) != len(members) or len(members) > _MOST_STATES:
        return span
    if not all(map(_MEMBER.fullmatch, members)):
        return span
    while len(state := ",".join(members)) > _LONGEST_STATE:
        members.pop()
    return replace(span, state=state)


class _Sending(ABC):
    """A thread that sends to a collector, and what it knows of it."""

    def __init__(self, collector: CollectorAddress, what: str, answers: Answers) -> None:
        self.failures = 0
        self.loop = asyncio.get_running_loop()
        self._collector = collector
        self._what = what
        self._answers = answers
        self._answered_at = -math.inf
        self._is_away = False
        self._told_at = -math.inf
        self._thread: Future[None] | None = None

    def start(self) -> None:
        """Start the thread."""
        self._words = otlp_sdk.HeardWords()
        self._thread = start_on_daemon_thread(self._listen_and_run)

    async def wait(self, give_up: float) -> bool:
        """Wait until the thread has ended, as long as the collector answers; say whether it has."""
        assert self._thread is not None
        began, ended = time.monotonic(), asyncio.wrap_future(self._thread)
        give_up = max(give_up, began + _GRACE)
        while not ended.done():
            until = min(give_up, max(began, self._answered_at) + _GRACE)
            if (seconds := until - time.monotonic()) <= 0:
                break
            await asyncio.wait((ended,), timeout=seconds)
        self._words.close()
        return ended.done()

    def _listen_and_run(self) -> None:
        self._words.listen()
        self.run()

    @abstractmethod
    def run(self) -> None:
        """Send until the server ends, or its loop has been closed without an end."""

    def send(self, export: Callable[[], object], success: object) -> str:
        """Export on this thread; return why that failed, or nothing."""
        self._answers.forget()
        try:
            is_sent = export() is success
            why = self._words.taken() or "the export failed"
        except Exception as error:  # noqa: BLE001 - the library's; it must not end the thread
            is_sent, why = False, shortened(f"{type(error).__name__}: {error}", LONGEST_REASON)
        if is_sent and self._answers.fault:
            is_sent, why = False, self._answers.fault
        self.failures += not is_sent
        if is_sent and self._is_away:
            _log.info("otlp: %s reach %s again", self._what, self._collector)
        self._is_away = not is_sent
        if not is_sent:
            return why
        self._answered_at = time.monotonic()
        if self._answers.said and not self._answers.rejected:
            self.tell("%s were taken by %s, which says: %s", self._what, self._answers.said)
        return ""

    def tell(self, words: str, what: str, why: str) -> bool:
        """Say something of the collector in the log, once in a window; return whether it was said.

        The words have a place for what was sent, for the collector, and for the reason.
        """
        if time.monotonic() - self._told_at < _WINDOW:
            return False
        self._told_at = time.monotonic()
        _log.warning(f"otlp: {words}", what, self._collector, why)
        return True


class _SpanThread(_Sending):
    """The queue of requests that have ended, and the thread that sends their spans."""

    def __init__(self, collector: CollectorAddress, maker: SpanMaker) -> None:
        self._exporter, answers = otlp_sdk.span_exporter(collector)
        super().__init__(collector, "spans", answers)
        self.sent = self.not_sent = self.crowded_out = self.rejected = 0
        self._told = self._underway = 0
        self._maker = maker
        self._batch = int(otlp_sdk.number_in("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _BATCH))
        self._delay = otlp_sdk.number_in("OTEL_BSP_SCHEDULE_DELAY", _DELAY) / 1000
        most = otlp_sdk.number_in("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE)
        self._most = max(1, int(most) // _MOST_SPANS)
        self._enough = max(1, min(self._batch // _MOST_SPANS, self._most))
        self._queue: deque[EndedRequest] = deque()
        self._wake = threading.Event()
        self._is_ending = False

    @property
    def lost(self) -> int:
        """How many spans the collector has not, and will not get."""
        return self.not_sent + self.crowded_out + self.rejected

    def add(self, record: RequestRecord, seconds: float) -> None:
        """Queue a request, or count its spans as lost."""
        ended, waiting = EndedRequest.of(record, seconds), len(self._queue)
        if waiting >= self._most or self._is_ending:
            self.crowded_out += ended.spans
            return
        self._queue.append(ended)
        if waiting + 1 >= self._enough and not self._wake.is_set():
            self._wake.set()

    async def end(self, give_up: float) -> None:
        """Send what waits, and count and tell what cannot be sent."""
        self._is_ending = True
        self._wake.set()
        if not await self.wait(give_up):
            self.not_sent += self._underway + self._waiting_spans()
        if lost := self.lost - self._told:
            _log.warning("otlp: stopping with %d spans not sent to %s", lost, self._collector)

    def run(self) -> None:
        """Send a batch whenever there is one, and what waits after each delay."""
        is_last = False
        while not is_last:
            self._wake.wait(self._delay)
            self._wake.clear()
            is_last = self._is_ending or self.loop.is_closed()
            self._send_all(is_last=is_last)

    def _send_all(self, *, is_last: bool) -> None:
        while spans := self._next_batch():
            failure = self._send_batch(spans)
            if failure and is_last:  # there is no time to try each of them
                self.not_sent += self._waiting_spans()
                self._queue.clear()
            why, lost = failure or self._answers.rejection or "more came", self.lost
            if lost > self._told and self.tell(_NOT_SENT, f"{lost - self._told} spans", why):
                self._told = lost

    def _send_batch(self, spans: list[ReadableSpan]) -> str:
        """Send and count the spans; return why that failed, or nothing."""
        self._underway = len(spans)
        failure = self.send(partial(self._exporter.export, spans), SpanExportResult.SUCCESS)
        self._underway = 0
        rejected = min(self._answers.rejected, len(spans))
        if failure:
            self.not_sent += len(spans)
        else:
            self.sent += len(spans) - rejected
            self.rejected += rejected
        return failure

    def _next_batch(self) -> list[ReadableSpan]:
        spans: list[ReadableSpan] = []
        while self._queue and len(spans) < self._batch:
            ended = self._queue.popleft()
            try:
                spans += self._maker.spans_of(ended)
            except Exception:  # noqa: BLE001 - whatever a request was made of, others are to be sent
                self.not_sent += ended.spans
                _log.exception("otlp: a request's spans cannot be made")
        return spans

    def _waiting_spans(self) -> int:
        return sum(ended.spans for ended in tuple(self._queue))


Reading = tuple[Sequence[Family], int]
"""The metrics, and when they were read, in nanoseconds since 1970."""


class _MetricThread(_Sending):
    """The thread that sends the metrics at intervals; the event loop reads them for it."""

    def __init__(
        self, collector: CollectorAddress, registry: CollectorRegistry, resource: Resource
    ) -> None:
        self._exporter, answers = otlp_sdk.metric_exporter(collector)
        super().__init__(collector, "metrics", answers)
        self._registry = registry
        self._resource = resource
        self._interval = otlp_sdk.number_in("OTEL_METRIC_EXPORT_INTERVAL", _INTERVAL) / 1000
        self._started = time.time_ns()
        self._is_over = threading.Event()
        self._last: Reading = (), 0

    async def end(self, give_up: float) -> None:
        """Send the metrics as they are now, and no more."""
        self._last = self._read()
        self._is_over.set()
        if not await self.wait(give_up):
            _log.warning("otlp: stopping with the last metrics not sent to %s", self._collector)

    def run(self) -> None:
        """Send the metrics after each interval, and once more at the end."""
        while not self._is_over.wait(self._interval):
            if self.loop.is_closed():
                return
            self._send(*self._read_by_loop())
        self._send(*self._last)

    def _read(self) -> Reading:
        return list(self._registry.collect()), time.time_ns()

    def _read_by_loop(self) -> Reading:
        """Return the metrics as the event loop, which counts them, reads them; none if it is busy.

        To read them here would meet a series that is being added.
        """
        read: Future[Reading] = Future()
        try:
            self.loop.call_soon_threadsafe(lambda: read.set_result(self._read()))
            return read.result(_LOOP_SECONDS)
        except (TimeoutError, RuntimeError):  # the loop was closed
            return (), 0

    def _send(self, families: Sequence[Family], read_at: int) -> None:
        if not families:
            return
        data = metrics_data(families, self._resource, self._started, read_at)
        why = self.send(partial(self._exporter.export, data), MetricExportResult.SUCCESS)
        if why or (why := self._answers.rejection):
            self.tell(_NOT_SENT, "metrics", why)
