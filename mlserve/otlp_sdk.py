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
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler

from mlserve import __version__
from mlserve.background import run_within
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, UsageError, shortened
from mlserve.otlp import CollectorAddress, require_known_protocol, require_sound_headers
from mlserve.otlp_answers import LONGEST_REASON, Answers, listening_session

_LIBRARY = "opentelemetry.exporter.otlp"
_LARGEST = 2**31
"""The largest number that a variable may have: milliseconds of 24 days."""
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
    if 1 <= number <= _LARGEST:
        return number
    logging.getLogger(__name__).warning(
        "%s is %r, not a number from 1 to %d: %g is taken",
        *(variable, shortened(text), _LARGEST, default),
    )
    return default


def span_exporter(collector: CollectorAddress) -> tuple[SpanExporter, Answers]:
    """Return the official exporter of spans to that collector, and what will be answered.

    Raises UsageError for variables of the SDK that it cannot take.
    """
    answers = Answers(ExportTraceServiceResponse)
    with _set_up(collector):
        if collector.speaks_grpc:
            from mlserve.otlp_grpc import GrpcSpanExporter

            endpoint = _grpc_endpoint(collector)
            return GrpcSpanExporter(answers, endpoint, insecure=not collector.is_secure), answers
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        endpoint = _http_endpoint(collector, "traces")
        return OTLPSpanExporter(endpoint, session=listening_session(answers)), answers


def metric_exporter(collector: CollectorAddress) -> tuple[MetricExporter, Answers]:
    """Return the official exporter of metrics to that collector, and what will be answered.

    Raises UsageError for variables of the SDK that it cannot take.
    """
    answers = Answers(ExportMetricsServiceResponse)
    with _set_up(collector):
        if collector.speaks_grpc:
            from mlserve.otlp_grpc import GrpcMetricExporter

            endpoint = _grpc_endpoint(collector)
            return GrpcMetricExporter(answers, endpoint, insecure=not collector.is_secure), answers
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        endpoint = _http_endpoint(collector, "metrics")
        return OTLPMetricExporter(endpoint, session=listening_session(answers)), answers


@contextmanager
def _set_up(collector: CollectorAddress) -> Iterator[None]:
    """Refuse what the SDK would stumble over, and tell what it stumbles over in the block."""
    require_known_protocol(collector)
    require_sound_headers()
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"the exporter to {collector} cannot be made: {error}",
            hint="look at the variables OTEL_EXPORTER_OTLP_...: timeout, compression, certificates",
        ) from error


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
                # Before the library's own, which drops what another thread has said already.
                logging.getLogger(name).filters.insert(0, self)

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
        return shortened(said[0], LONGEST_REASON) if said else ""

    def close(self) -> None:
        """Listen no more."""
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).removeFilter(self)


class _Heard(SpanExporter):
    """Another exporter; `trouble` is why it last failed, and empty if it did not."""

    def __init__(self, exporter: SpanExporter, answers: Answers) -> None:
        self._exporter = exporter
        self._answers = answers
        self._words = HeardWords()
        self.trouble = ""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the spans, as the other one does."""
        self._words.listen()
        self._answers.forget()
        result = self._exporter.export(spans)
        said, answers = self._words.taken(), self._answers
        if result is not SpanExportResult.SUCCESS:
            self.trouble = said or "it failed"
        else:
            self.trouble = answers.fault or answers.rejection
        return result

    def shutdown(self) -> None:
        """End the other one."""
        self._exporter.shutdown()


class ProgramTracing:
    """What a whole program, a command, records of itself; `trouble` is why that was not sent."""

    def __init__(self, collector: CollectorAddress, service: str) -> None:
        self.trouble = ""
        self._exporter = _Heard(*span_exporter(collector))
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
