"""The official exporters over gRPC, and what the collector answers them."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from mlserve.otlp_answers import Answers, ListeningStub


class GrpcSpanExporter(OTLPSpanExporter):
    """The exporter of spans; `answers` are told what the collector says."""

    def __init__(self, answers: Answers, endpoint: str, *, insecure: bool) -> None:
        self._answers = answers
        super().__init__(endpoint=endpoint, insecure=insecure)

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client = ListeningStub(self._client, self._answers)  # type: ignore[assignment]


class GrpcMetricExporter(OTLPMetricExporter):
    """The exporter of metrics; `answers` are told what the collector says."""

    def __init__(self, answers: Answers, endpoint: str, *, insecure: bool) -> None:
        self._answers = answers
        super().__init__(endpoint=endpoint, insecure=insecure)

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client = ListeningStub(self._client, self._answers)  # type: ignore[assignment]
