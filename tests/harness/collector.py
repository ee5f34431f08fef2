"""A receiver of OTLP over HTTP and gRPC, of the official messages; it can be away or slow."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from mlserve.testing.processes import wait_until

KINDS = {number: name.removeprefix("SPAN_KIND_") for name, number in Span.SpanKind.items()}
_SERVICES = {
    "traces": ("trace.v1.TraceService", trace_service.ExportTraceServiceRequest),
    "metrics": ("metrics.v1.MetricsService", metrics_service.ExportMetricsServiceRequest),
}


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came; ids in lower-case hex, times in nanoseconds since 1970."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start: int
    end: int
    attributes: dict[str, Any]
    is_error: bool
    status_message: str
    resource: dict[str, Any]
    scope: str

    def holds(self, other: ReceivedSpan, slack: int = 0) -> bool:
        """Whether the other one lies within this one, but for so many nanoseconds at its end."""
        return self.start <= other.start <= other.end <= self.end + slack


@dataclass(frozen=True)
class Point:
    """A point of a metric: its value, or those of a histogram."""

    labels: tuple[tuple[str, str], ...]
    value: Any


class Receiver:
    """What came, and the ports. `is_open`: it answers; `status` is what it says over HTTP.

    `answers` are its messages by signal, `more` the headers beside them over HTTP.
    """

    def __init__(self) -> None:
        self.http_port = self.grpc_port = 0
        self.status = 200
        self.is_open = threading.Event()
        self.is_open.set()
        self.headers: list[dict[str, str]] = []
        self.peers: set[Any] = set()
        self.answers = dict.fromkeys(_SERVICES, b"")
        self.more: dict[str, str] = {"content-type": "application/x-protobuf"}
        self._lock = threading.Lock()
        self._requests: dict[str, list[Any]] = {"traces": [], "metrics": []}

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def reject(self, count: int, why: str) -> None:
        """Answer from now on that so many spans and points are not taken."""
        spans = trace_service.ExportTracePartialSuccess(rejected_spans=count, error_message=why)
        points = metrics_service.ExportMetricsPartialSuccess(
            rejected_data_points=count, error_message=why
        )
        of_spans = trace_service.ExportTraceServiceResponse(partial_success=spans)
        of_points = metrics_service.ExportMetricsServiceResponse(partial_success=points)
        self.answers = {
            "traces": of_spans.SerializeToString(),
            "metrics": of_points.SerializeToString(),
        }

    def url(self, protocol: str) -> str:
        return self.http if protocol == "http" else self.grpc

    def take(self, signal: str, data: bytes) -> None:
        request = _SERVICES[signal][1].FromString(data)
        with self._lock:
            self._requests[signal].append(request)

    def requests(self, signal: str) -> list[Any]:
        with self._lock:
            return list(self._requests[signal])

    @property
    def spans(self) -> list[ReceivedSpan]:
        return [span for request in self.requests("traces") for span in _spans(request)]

    def trace(self, trace_id: str, count: int) -> list[ReceivedSpan]:
        """Wait until that many spans of a trace are there; return them by their start."""

        def found() -> list[ReceivedSpan] | None:
            spans = [span for span in self.spans if span.trace_id == trace_id]
            return spans if len(spans) >= count else None

        return sorted(wait_until(found), key=lambda span: span.start)

    def metrics(self, number: int = -1) -> dict[str, tuple[str, list[Point]]]:
        """The metrics of one export by name, each with what it is."""
        request = self.requests("metrics")[number]
        found = {}
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    found[metric.name] = kind, list(_points(getattr(metric, kind), kind))
        return found


def _spans(request: Any) -> Iterator[ReceivedSpan]:
    for group in request.resource_spans:
        resource = _values(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    span.name,
                    KINDS[span.kind],
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.trace_state,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _values(span.attributes),
                    span.status.code == Status.STATUS_CODE_ERROR,
                    span.status.message,
                    resource,
                    scope.scope.name,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


def _points(data: Any, kind: str) -> Iterator[Point]:
    for point in data.data_points:
        labels = tuple(sorted(_values(point.attributes).items()))
        if kind == "histogram":
            bounds = tuple(point.explicit_bounds)
            yield Point(labels, (point.count, point.sum, bounds, tuple(point.bucket_counts)))
        else:
            yield Point(labels, getattr(point, point.WhichOneof("value")))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        receiver, signal = self.receiver, self.path.rpartition("/")[2]
        receiver.peers.add(self.client_address)
        receiver.is_open.wait()
        receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
        if receiver.status == 200:
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            receiver.take(signal, data)
        self.send_response(receiver.status)
        for name, value in receiver.more.items():
            self.send_header(name, value)
        answer = receiver.answers.get(signal, b"")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        with suppress(OSError):  # who has read enough goes
            self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


def _service(receiver: Receiver, signal: str) -> grpc.GenericRpcHandler:
    name, _ = _SERVICES[signal]

    def export(data: bytes, context: grpc.ServicerContext) -> bytes:
        receiver.is_open.wait()
        if receiver.status != 200:
            context.abort(grpc.StatusCode.UNAVAILABLE, "it is told to be away")
        receiver.take(signal, data)
        return receiver.answers[signal]

    method = grpc.unary_unary_rpc_method_handler(export)
    return grpc.method_handlers_generic_handler(
        f"opentelemetry.proto.collector.{name}", {"Export": method}
    )


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Receive on ports of the system's choice, or over HTTP on that one."""
    receiver = Receiver()
    handler = type("Handler", (_Handler,), {"receiver": receiver})
    http = ThreadingHTTPServer(("127.0.0.1", port), handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    server = grpc.server(ThreadPoolExecutor(4))
    for signal in _SERVICES:
        server.add_generic_rpc_handlers((_service(receiver, signal),))
    receiver.http_port = http.server_address[1]
    receiver.grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver
    finally:
        receiver.is_open.set()
        http.shutdown()
        http.server_close()
        server.stop(None).wait()
