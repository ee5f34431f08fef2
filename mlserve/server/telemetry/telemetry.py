"""What is seen of the requests: each is begun, counted and logged here, on both ports alike."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from mlserve.server import request
from mlserve.server.engine.admission import Ended, Execution, Refusal
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.statistics import Statistics

METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")
"""The page of the metrics; the second one is where TensorFlow Serving has its own by custom."""
_INFERS = re.compile(r"/v1/models/.*:(predict|classify|regress)/?|/v2/models/.*/infer/?", re.I)
_PROBES = re.compile(
    r"/v2/health/.*|/v2/models/.*/ready/?|/v1/models/[^/:]+(/versions/[^/:]+)?/?", re.I
)
_METADATA = re.compile(r"/v1/models/.*/metadata/?|/v2(/models/.*)?/?|/openapi\.json", re.I)
_GRPC_APIS = {"tensorflow": "tfs", "inference": "oip"}
_GRPC_INFERS = ("Predict", "Classify", "Regress", "MultiInference", "ModelInfer")
_GRPC_PROBES = ("GetModelStatus", "ServerLive", "ServerReady", "ModelReady")
_LONGEST_PATH = 256


class Telemetry:
    """The metrics, statistics and log of a server's requests; an `Observer` of its engine."""

    def __init__(self, metrics: Metrics, log: RequestLog) -> None:
        self._metrics = metrics
        self._log = log
        self.statistics = Statistics()

    def begin(self, route: Route, header: Callable[[str], str | None]) -> RequestRecord:
        """The record of a request that came in now, made the running task's."""
        begun = RequestRecord.arrived(route, header)
        request.begin(begun)
        return begun

    def end(self, ended: RequestRecord) -> None:
        """Counts and logs a request whose answer has been written."""
        seconds = time.monotonic() - ended.began
        self._metrics.request(ended, seconds)
        self.statistics.request(ended, seconds)
        self._log.note(ended, seconds)

    def refused(self, why: Refusal) -> None:
        """Counts a call that the engine did not start."""
        self._metrics.refused(why)

    def ended(self, call: Ended) -> None:
        """Counts work that has ended."""
        self._metrics.ended(call)

    def batch(self, size: int) -> None:
        """Counts a batch."""
        self._metrics.batch(size)

    def executed(self, run: Execution) -> None:
        """Counts a run of the model."""
        self.statistics.execution(run)


def rest_route(method: str, path: str) -> Route:
    """Where that HTTP request belongs."""
    api = {"/v1/": "tfs", "/v2/": "oip"}.get(f"{path[:3]}/".lower(), "")
    return Route("rest", api, _rest_kind(method, path), f"{method} {path[:_LONGEST_PATH]}")


def grpc_route(path: str) -> Route:
    """Where the calls of that gRPC method belong; `path` is `/<service>/<method>`."""
    service, _, method = path[1:].partition("/")
    api = _GRPC_APIS.get(service.partition(".")[0], "")
    kind = Purpose.METADATA
    if method in _GRPC_INFERS:
        kind = Purpose.PREDICT
    elif method in _GRPC_PROBES:
        kind = Purpose.PROBE
    return Route("grpc", api, kind if api else Purpose.OTHER, path[:_LONGEST_PATH])


def _rest_kind(method: str, path: str) -> Purpose:
    if _INFERS.fullmatch(path):
        return Purpose.PREDICT
    if method not in ("GET", "HEAD"):
        return Purpose.OTHER
    if path in METRICS_PATHS or _PROBES.fullmatch(path):
        return Purpose.PROBE
    return Purpose.METADATA if _METADATA.fullmatch(path) else Purpose.OTHER
