"""Pages of the REST port outside the protocols: `/metrics` and `/openapi.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from mlserve import __version__
from mlserve.errors import NotFound
from mlserve.server.body_memory import BodyMemory
from mlserve.server.engine.engine import Engine
from mlserve.server.listen.http import Operation, check_method, json_response
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadStatus, State
from mlserve.server.openapi import DOCUMENT, DOCUMENT_PATH, METRICS_PATHS
from mlserve.server.request import Purpose
from mlserve.server.telemetry.log import lost_lines
from mlserve.server.telemetry.metrics import Metrics


class OpenApiPage:
    """The page with the OpenAPI document, whose paths are below the place of a mounted server."""

    def match(self, path: str) -> Operation | None:
        if path != DOCUMENT_PATH:
            return None
        return Operation("", Purpose.METADATA, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        root = request.scope.get("root_path", "").rstrip("/")
        servers = {"servers": [{"url": quote(root)}]} if root else {}
        return json_response(json.dumps(DOCUMENT | servers).encode())


class MetricsPage:
    """The page with the metrics, in the format that the Accept header asks for."""

    def __init__(self, metrics: Metrics, also_at: str | None = None) -> None:
        self._metrics = metrics
        self._paths = (*METRICS_PATHS, also_at)

    def match(self, path: str) -> Operation | None:
        if path not in self._paths:
            return None
        return Operation("", Purpose.PROBE, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        body, media_type = self._metrics.page(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type})


class ServerState(Collector):
    """Metrics that are read from the server when the page is requested."""

    def __init__(self, engine: Engine, models: Models, memory: BodyMemory) -> None:
        self._engine = engine
        self._models = models
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges and the counter of lost log lines."""
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
