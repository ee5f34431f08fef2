"""The front's own pages, behind the ingress: `/mlserve/replicas`, and the metrics of all replicas.

They are answered by mlserve's own HTTP server on loopback, so they need the token as elsewhere.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mlserve.background import run_on_daemon_thread
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.drain import InFlight
from mlserve.server.listen.http import check_method, json_response
from mlserve.server.listen.ports import RestPort
from mlserve.server.listen.routes import Operation, RestApp
from mlserve.server.message import Request, Response
from mlserve.server.request import Purpose
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import ServerSettings
from mlserve.wire import paths
from mlserve.wire.replicas import ReplicaSet
from mlserve_ray.replica import ReplicaPlan
from mlserve_ray.reports import Report
from mlserve_ray.scrape import Asked, NoAnswer

METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")
_THREADS = 16

MetricsPages = Callable[[], Mapping[str, str]]
"""Asks all replicas for their page of metrics; a text for each that answers, by id. It blocks."""


class Pages:
    """The listener. `status` gives the JSON of the replicas, `own` the front's own metrics."""

    def __init__(
        self,
        settings: ServerSettings,
        status: Callable[[], ReplicaSet],
        metrics: MetricsPages,
        own: Callable[[], Sequence[Metric]],
    ) -> None:
        """`settings` are those of the port: its token, and no TLS."""
        protocols = (_Replicas(status), _Metrics(metrics, own))
        telemetry = Telemetry(Metrics(), RequestLog(settings))
        app = RestApp(RestGate.from_settings(settings), protocols, telemetry, InFlight())
        self._begin = app.begin
        self._port = RestPort("127.0.0.1", 0, settings)

    @property
    def port(self) -> int:
        """The port on loopback."""
        return int(self._port.address.rpartition(":")[2])

    async def start(self) -> None:
        """Start to answer."""
        await self._port.start(self._begin)

    async def stop(self) -> None:
        """Answer what is asked, and close."""
        await self._port.stop()


class _Replicas:
    def __init__(self, status: Callable[[], ReplicaSet]) -> None:
        self._status = status

    def match(self, path: str) -> Operation | None:
        if path != paths.REPLICAS:
            return None
        return Operation("", Purpose.METADATA, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        return json_response(json.dumps(self._status().to_json()).encode())


class _Metrics:
    def __init__(self, metrics: MetricsPages, own: Callable[[], Sequence[Metric]]) -> None:
        self._metrics = metrics
        self._own = own

    def match(self, path: str) -> Operation | None:
        if path not in METRICS_PATHS:
            return None
        return Operation("", Purpose.PROBE, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        pages = await run_on_daemon_thread(self._metrics)
        write, media_type = choose_encoder(request.headers.get("accept"))
        body = await asyncio.to_thread(lambda: write(_registry(pages, self._own())))
        return Response(body, media_type=media_type)


def _registry(pages: Mapping[str, str], own: Sequence[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_All([*own, *labelled(pages)]))
    return registry


class _All(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def labelled(pages: Mapping[str, str]) -> list[Metric]:
    """Return the metrics of all pages, each series with the label `replica`."""
    found: dict[str, Metric] = {}
    samples: dict[str, list[Any]] = defaultdict(list)
    for replica, page in pages.items():
        for family in text_string_to_metric_families(page):
            found.setdefault(family.name, family)
            samples[family.name] += [
                sample._replace(labels={**sample.labels, "replica": replica})
                for sample in family.samples
            ]
    for name, family in found.items():
        family.samples = samples[name]
    return list(found.values())


def own_metrics(states: Mapping[str, int], counts: Mapping[str, int]) -> list[Metric]:
    """Return the front's metrics: replicas by state, and what the ingress has counted."""
    replicas = GaugeMetricFamily(
        "mlserve_replicas", "Replicas of the server, by state.", labels=("state",)
    )
    for state, number in states.items():
        replicas.add_metric((state,), number)
    texts = {
        "requests": "Requests to the model that came to the ingress.",
        "redispatched": "Requests that a second replica was asked, after the first refused.",
        "hedged": "Requests that a second replica was asked, as the first took long.",
        "refused": "Requests that were refused in the end.",
    }
    counters = [
        CounterMetricFamily(f"mlserve_ingress_{name}", text, counts.get(name, 0))
        for name, text in texts.items()
    ]
    return [replicas, *counters]


def pages_of(replicas: Sequence[Report], plan: ReplicaPlan) -> dict[str, str]:
    """Ask all replicas for their page of metrics, side by side; leave out who does not answer."""

    def page_of(replica: Report) -> tuple[str, str]:
        asked = Asked(replica.host, replica.rest_port, plan.model, plan.token, plan.slots)
        try:
            return replica.id, asked.get("/metrics").decode()
        except NoAnswer:
            return replica.id, ""

    with ThreadPoolExecutor(_THREADS) as threads:
        return {replica: page for replica, page in threads.map(page_of, replicas) if page}
