"""The metrics of one server, in Prometheus's text format and in OpenMetrics.

Names and labels are told in docs/observability.md. No label takes a value from a client: models,
versions and signatures are those that are served, and everything else is one of a few words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlserve import __version__
from mlserve.errors import NotFound
from mlserve.server.body_memory import BodyMemory
from mlserve.server.engine.admission import Ended, Outcome, Refusal
from mlserve.server.engine.engine import Engine
from mlserve.server.models.models import Models
from mlserve.server.models.versions import State, VersionStatus
from mlserve.server.request import Purpose, RequestRecord
from mlserve.server.telemetry.log import lost_lines
from mlserve.wire.headers import STAGES

Kept = TypeVar("Kept", Counter, Histogram)

_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_DEADLINE = "deadline_exceeded"
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REFUSED_AT_THE_DOOR = {"input_too_large": "too_large", "access_denied": "unauthenticated"}
"""Errors of requests that never came to the engine, as reasons of a refusal."""


class Metrics:
    """Counts what the ports and the engine tell."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody reads
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._requests = self._counter(
            "requests",
            "Requests that ended, by code.",
            *("model", "version", "signature", "api", "transport", "kind", "code"),
        )
        self._durations = self._histogram(
            "request_duration_seconds",
            "Time of predict requests from arrival to the last byte of the answer.",
            *("model", "signature", "transport"),
        )
        self._stages = self._histogram(
            "stage_duration_seconds",
            "Time of one stage (queue, decode, run, encode) of the work of a request.",
            *("model", "signature", "stage"),
        )
        self._refused = self._counter(
            "refused", "Requests whose work was not started, by reason.", "reason"
        )
        self._work = self._counter(
            "work", "Work that was started and has ended, by outcome.", "outcome"
        )
        self._late = self._counter(
            "late",
            "Requests whose deadline passed in the server, by the stage they were in.",
            "stage",
        )
        self._batches = self._histogram(
            "batch_size", "Requests that ran together as one batch.", buckets=_SIZES
        )
        self._begin_at_zero()

    def show(self, engine: Engine, catalog: Models, memory: BodyMemory) -> None:
        """Adds the state of these, which is read at each scrape."""
        self.registry.register(_ServerState(engine, catalog, memory))

    def request(self, ended: RequestRecord, seconds: float) -> None:
        """Counts a request that ended, `seconds` after it came in."""
        route = ended.route
        is_known = ended.version is not None
        model = ended.model if is_known else ""
        signature = ended.signature if is_known else ""
        version = str(ended.version) if is_known else ""
        where = (route.api, route.transport, route.kind.value)
        self._requests.of(model, version, signature, *where, ended.code).inc()
        if route.kind is Purpose.PREDICT:
            self._durations.of(model, signature, route.transport).observe(seconds)
            if ended.code == _DEADLINE and ended.refused in ("", Refusal.EXPIRED.value):
                self._late.of(ended.times.unreached()).inc()
            if ended.code in _REFUSED_AT_THE_DOOR and not is_known:
                self._refused.of(_REFUSED_AT_THE_DOOR[ended.code]).inc()

    def refused(self, why: Refusal) -> None:
        """Counts a call that the engine did not start."""
        self._refused.of(why.value).inc()

    def ended(self, call: Ended) -> None:
        """Counts work that ended, and how long each of its stages took."""
        self._work.of(call.outcome.value).inc()
        for stage, seconds in call.times.reached():
            self._stages.of(call.model, call.signature, stage).observe(seconds)

    def batch(self, size: int) -> None:
        """Counts a batch."""
        self._batches.of().observe(size)

    def _counter(self, name: str, text: str, *labels: str) -> _Children[Counter]:
        return _Children(Counter(f"mlserve_{name}", text, labels, registry=self.registry))

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> _Children[Histogram]:
        name = f"mlserve_{name}"
        metric = Histogram(name, text, labels, buckets=buckets, registry=self.registry)
        return _Children(metric)

    def _begin_at_zero(self) -> None:
        """Shows every series of a few words from the start, so that a rate sees its first count."""
        for reason in (*Refusal, *_REFUSED_AT_THE_DOOR.values()):
            self._refused.of(str(reason))
        for outcome in Outcome:
            self._work.of(outcome.value)
        for stage in STAGES:
            self._late.of(stage)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type, in the format that an Accept header asks for."""
        write, media_type = choose_encoder(accept)
        return write(self.registry), media_type


class _Children(Generic[Kept]):
    """The series of one metric, each looked up once."""

    def __init__(self, metric: Kept) -> None:
        self._metric: Kept = metric
        self._bound: dict[tuple[str, ...], Kept] = {}

    def of(self, *values: str) -> Kept:
        """The series with these label values."""
        found = self._bound.get(values)
        if found is None:
            found = self._metric.labels(*values) if values else self._metric
            self._bound[values] = found
        return found


class _ServerState(Collector):
    """What is read from the server when it is asked for."""

    def __init__(self, engine: Engine, catalog: Models, memory: BodyMemory) -> None:
        self._engine = engine
        self._catalog = catalog
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """The gauges, and the counter of log lines that could not be written."""
        engine, catalog = self._engine, self._catalog
        is_ready = catalog.is_ready and not engine.is_draining
        for name, text, value in (
            ("ready", "1 while a request would be served.", is_ready),
            ("requests_running", "Calls that hold a slot now.", engine.running),
            ("requests_waiting", "Calls in the queue now.", engine.waiting),
            ("queue_limit", "The most calls that may wait.", engine.max_queue),
            ("body_bytes", "Memory that requests hold while they are read.", self._memory.held),
            ("body_bytes_limit", "The most that they may hold.", self._memory.most),
        ):
            yield GaugeMetricFamily(f"mlserve_{name}", text, value)
        yield self._versions()
        about = GaugeMetricFamily(
            "mlserve_build_info", "1, with what is running.", labels=("version", "backend")
        )
        for backend in sorted({catalog.backend_of(model) for model in catalog.models}):
            about.add_metric((__version__, backend), 1)
        yield about
        yield CounterMetricFamily(
            "mlserve_log_lines_lost", "Lines that could not be written to the log.", lost_lines()
        )

    def _versions(self) -> GaugeMetricFamily:
        """One series a version; those that ended without an error are not shown any more."""
        family = GaugeMetricFamily(
            "mlserve_model_version",
            "1, with the state of each version of the model.",
            labels=("model", "version", "state"),
        )
        for model in self._catalog.models:
            for status in self._statuses(model):
                if status.state is not State.END or status.error is not None:
                    family.add_metric((model, str(status.version), status.state.name), 1)
        return family

    def _statuses(self, model: str) -> list[VersionStatus]:
        try:
            return self._catalog.statuses(model)
        except NotFound:
            return []
