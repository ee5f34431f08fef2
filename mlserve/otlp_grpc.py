"""The official exporters over gRPC, and what the collector answers them."""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from mlserve.otlp_answers import Answers, ListeningStub


class _Listening:
    """An exporter whose `answers` are told what the collector says."""

    _client: Any

    def __init__(self, answers: Answers, endpoint: str, *, insecure: bool) -> None:
        self._answers = answers
        super().__init__(endpoint=endpoint, insecure=insecure)  # type: ignore[call-arg]

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[misc]
        self._client = ListeningStub(self._client, self._answers)


class GrpcSpanExporter(_Listening, OTLPSpanExporter):
    """The exporter of spans."""


class GrpcMetricExporter(_Listening, OTLPMetricExporter):
    """The exporter of metrics."""
