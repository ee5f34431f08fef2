"""The metrics of one server, in Prometheus's text format and in OpenMetrics.

docs/observability.md describes names and labels. No label takes a value from a client: models,
versions and signatures are those being served, and every other label has a few fixed values.
Gauges, which are read when Prometheus asks, are in `gauges`.
"""

from __future__ import annotations

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
from prometheus_client.exposition import choose_encoder

from mlserve.server.request import Outcome, Purpose, Refusal, RequestRecord
from mlserve.wire.headers import STAGES

Kept = TypeVar("Kept", Counter, Histogram)

_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_DEADLINE = "deadline_exceeded"
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REFUSED_AT_THE_DOOR = {"input_too_large": "too_large", "access_denied": "unauthenticated"}
"""Errors of requests that never reached the engine, as reasons for a refusal."""


class Metrics:
    """Counts requests, reported by the ports, and their work, reported by the engine."""

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
            "Time from the arrival of a predict request to the last byte of its answer.",
            *("model", "signature", "transport"),
        )
        self._stages = self._histogram(
            "stage_duration_seconds",
            "Time of one stage (queue, decode, run, encode) of a request.",
            *("model", "signature", "stage"),
        )
        self._refused = self._counter(
            "refused", "Requests whose work never started, by reason.", "reason"
        )
        self._work = self._counter(
            "work", "Requests whose work started and has ended, by outcome.", "outcome"
        )
        self._late = self._counter(
            "late",
            "Requests whose deadline passed in the server, by stage.",
            "stage",
        )
        self._batches = self._histogram(
            "batch_size", "Number of requests that ran together as one batch.", buckets=_SIZES
        )
        self._begin_at_zero()

    def request(self, ended: RequestRecord, seconds: float) -> None:
        """Count a request that ended `seconds` after it came in."""
        route = ended.route
        is_known = ended.version is not None
        model = ended.model if is_known else ""
        signature = ended.signature if is_known else ""
        version = str(ended.version) if is_known else ""
        where = (route.api, route.transport, route.purpose.value)
        self._requests.labelled(model, version, signature, *where, ended.code).inc()
        if route.purpose is Purpose.PREDICT:
            self._durations.labelled(model, signature, route.transport).observe(seconds)
            if ended.code == _DEADLINE and ended.refused in ("", Refusal.EXPIRED.value):
                self._late.labelled(ended.times.unreached()).inc()
            if ended.code in _REFUSED_AT_THE_DOOR and not is_known:
                self._refused.labelled(_REFUSED_AT_THE_DOOR[ended.code]).inc()

    def refused(self, why: Refusal) -> None:
        """Count a call that the engine did not start."""
        self._refused.labelled(why.value).inc()

    def work(self, ended: RequestRecord, outcome: Outcome) -> None:
        """Count work that the engine started and that has ended, and time its stages.

        The request may have ended before, as its client does not wait forever.
        """
        self._work.labelled(outcome.value).inc()
        for stage, seconds in ended.times.reached():
            self._stages.labelled(ended.model, ended.signature, stage).observe(seconds)

    def batch(self, size: int) -> None:
        """Count calls that were run as one batch."""
        self._batches.labelled().observe(size)

    def _counter(self, name: str, text: str, *labels: str) -> _Children[Counter]:
        return _Children(Counter(f"mlserve_{name}", text, labels, registry=self.registry))

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> _Children[Histogram]:
        name = f"mlserve_{name}"
        metric = Histogram(name, text, labels, buckets=buckets, registry=self.registry)
        return _Children(metric)

    def _begin_at_zero(self) -> None:
        """Create every series with fixed labels at zero, so that a rate sees its first count."""
        for reason in (*Refusal, *_REFUSED_AT_THE_DOOR.values()):
            self._refused.labelled(str(reason))
        for outcome in Outcome:
            self._work.labelled(outcome.value)
        for stage in STAGES:
            self._late.labelled(stage)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its media type, in the format that an Accept header asks for."""
        write, media_type = choose_encoder(accept)
        return write(self.registry), media_type


class _Children(Generic[Kept]):
    """The series of one metric, each looked up once."""

    def __init__(self, metric: Kept) -> None:
        self._metric: Kept = metric
        self._bound: dict[tuple[str, ...], Kept] = {}

    def labelled(self, *values: str) -> Kept:
        """Return the series with these label values."""
        series = self._bound.get(values)
        if series is None:
            series = self._metric.labels(*values) if values else self._metric
            self._bound[values] = series
        return series
