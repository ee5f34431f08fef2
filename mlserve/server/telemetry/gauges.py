"""Gauges: metrics that are read from the server when Prometheus asks for the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlserve import __version__
from mlserve.errors import NotFound
from mlserve.server.body_memory import BodyMemory
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadStatus, State
from mlserve.server.telemetry.log import lost_lines


class Load(Protocol):
    """What the gauges read of the engine, which stands above this package."""

    @property
    def running(self) -> int:
        """The number of calls that are running now."""

    @property
    def waiting(self) -> int:
        """The number of calls in the queue."""

    @property
    def max_queue(self) -> int:
        """The limit on `waiting`."""

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused because the server stops."""


class Gauges(Collector):
    """The gauges of one server, and the counter of log lines that it lost."""

    def __init__(self, engine: Load, models: Models, memory: BodyMemory) -> None:
        self._engine = engine
        self._models = models
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        engine, models = self._engine, self._models
        is_ready = models.is_ready and not engine.is_draining
        for name, text, value in (
            ("ready", "1 if a request would be served now, else 0.", is_ready),
            ("requests_running", "Calls that are running now.", engine.running),
            ("requests_waiting", "Calls that are waiting in the queue now.", engine.waiting),
            ("queue_limit", "Limit on the calls in the queue.", engine.max_queue),
            (
                "body_bytes",
                "Bytes of memory held by requests that are being read.",
                self._memory.held,
            ),
            ("body_bytes_limit", "Limit on mlserve_body_bytes.", self._memory.most),
        ):
            yield GaugeMetricFamily(f"mlserve_{name}", text, value)
        yield self._versions()
        about = GaugeMetricFamily(
            "mlserve_build_info",
            "Always 1; the labels say which mlserve and backend are running.",
            labels=("version", "backend"),
        )
        for backend in sorted({models.backend_of(model) for model in models.names}):
            about.add_metric((__version__, backend), 1)
        yield about
        yield CounterMetricFamily(
            "mlserve_log_lines_lost", "Log lines that could not be written.", lost_lines()
        )

    def _versions(self) -> GaugeMetricFamily:
        """Return one series for each version, except for those that ended without an error."""
        family = GaugeMetricFamily(
            "mlserve_model_version",
            "Always 1; the labels give the state of each version.",
            labels=("model", "version", "state"),
        )
        for model in self._models.names:
            for status in self._statuses(model):
                if status.state is not State.END or status.error is not None:
                    family.add_metric((model, str(status.version), status.state.name), 1)
        return family

    def _statuses(self, model: str) -> list[LoadStatus]:
        try:
            return self._models.statuses(model)
        except NotFound:
            return []
