"""The official SDK of OpenTelemetry, set up as its own variables say; imported only to send.

Endpoint and protocol are those of `--otlp`. All else that the SDK reads holds here too: headers,
certificates, compression and timeouts of the exporters (`OTEL_EXPORTER_OTLP_...`), the sampler
(`OTEL_TRACES_SAMPLER`), the resource (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`), the batches
(`OTEL_BSP_...`), the interval of metrics (`OTEL_METRIC_EXPORT_INTERVAL`), `OTEL_SDK_DISABLED`, and
`none` for `OTEL_TRACES_EXPORTER` or `OTEL_METRICS_EXPORTER`.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler

from mlserve import __version__
from mlserve.background import run_within
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, shortened
from mlserve.otlp import CollectorAddress

_LIBRARY = "opentelemetry.exporter.otlp"
_LONGEST_REASON = 300
_FLUSH = 1.0
"""Seconds that a command waits at its end for its spans to be sent."""


class _Sender(Resource):
    """A resource that knows its hash: an exporter asks for it with every span, and it is slow."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = hash(resource)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def resource_of(service: str) -> Resource:
    """Return what sends: the variables' attributes, and `service` where they name none."""
    own = {
        "service.name": service,
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
    }
    return _Sender(Resource.create({**own, **OTELResourceDetector().detect().attributes}))


def sampler() -> Sampler:
    """Return the sampler that OTEL_TRACES_SAMPLER names; by default, it follows the caller."""
    return TracerProvider(shutdown_on_exit=False).sampler


def is_wanted(signal: str) -> bool:
    """Return whether to send that signal: TRACES or METRICS."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip() != "none"


def number_in(variable: str, default: float) -> float:
    """Return the positive number in that variable; the default, with a warning, for anything else.

    The warning is the SDK's way too: telemetry must not keep a server from starting.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number > 0:
        return number
    logging.getLogger(__name__).warning(
        "%s is %r, not a number above 0: %g is taken", variable, shortened(text), default
    )
    return default


def span_exporter(collector: CollectorAddress) -> SpanExporter:
    """Return the official exporter of spans to that collector."""
    if collector.speaks_grpc:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(
            endpoint=_grpc_endpoint(collector), insecure=not collector.is_secure
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpSpanExporter,
    )

    return HttpSpanExporter(endpoint=_http_endpoint(collector, "traces"))


def metric_exporter(collector: CollectorAddress) -> MetricExporter:
    """Return the official exporter of metrics to that collector."""
    if collector.speaks_grpc:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(
            endpoint=_grpc_endpoint(collector), insecure=not collector.is_secure
        )
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
        OTLPMetricExporter as HttpMetricExporter,
    )

    return HttpMetricExporter(endpoint=_http_endpoint(collector, "metrics"))


def _grpc_endpoint(collector: CollectorAddress) -> str:
    return f"{'https' if collector.is_secure else 'http'}://{collector.authority}"


def _http_endpoint(collector: CollectorAddress, signal: str) -> str:
    scheme = "https" if collector.is_secure else "http"
    return f"{scheme}://{collector.authority}{collector.path}/v1/{signal}"


class HeardWords(logging.Filter):
    """Keeps what the exporters say on the threads given to it out of the log, and remembers it.

    They have a line for each attempt; whoever sends has one for many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._threads: set[int] = set()
        self._said: list[str] = []
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(_LIBRARY):
                logging.getLogger(name).addFilter(self)

    def listen(self) -> None:
        """Listen to what is said on this thread from now on."""
        self._threads.add(threading.get_ident())

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log that."""
        if record.thread not in self._threads:
            return True
        if record.levelno >= logging.WARNING:
            self._said.append(record.getMessage())
        return False

    def taken(self) -> str:
        """Return what was said first, and forget the rest; empty if nothing was.

        The first attempt says what is wrong, the last one that there was no time for another.
        """
        said, self._said = self._said, []
        return shortened(said[0], _LONGEST_REASON) if said else ""

    def close(self) -> None:
        """Listen no more."""
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).removeFilter(self)


class _Heard(SpanExporter):
    """Another exporter; `trouble` is why it last failed, and empty if it did not."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._words = HeardWords()
        self.trouble = ""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the spans, as the other one does."""
        self._words.listen()
        result = self._exporter.export(spans)
        said = self._words.taken()
        self.trouble = "" if result is SpanExportResult.SUCCESS else said or "it failed"
        return result

    def shutdown(self) -> None:
        """End the other one."""
        self._exporter.shutdown()


class ProgramTracing:
    """What a whole program, a command, records of itself; `trouble` is why that was not sent."""

    def __init__(self, collector: CollectorAddress, service: str) -> None:
        self.trouble = ""
        self._exporter = _Heard(span_exporter(collector))
        self._provider = TracerProvider(resource=resource_of(service), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the spans of the block, and send them at its end, within a second."""
        trace.set_tracer_provider(self._provider)
        try:
            yield
        finally:
            try:
                run_within(Deadline.after(_FLUSH), "sending spans", self._provider.force_flush)
                self.trouble = self._exporter.trouble
            except MlserveError:
                self.trouble = f"the collector did not take them within {_FLUSH:g} s"
