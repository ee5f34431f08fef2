"""The families of `/metrics` in OpenTelemetry's model: the same names, labels, values and buckets.

The rules are those of the specification for Prometheus's formats: a counter becomes a cumulative,
monotonic sum, a gauge a gauge, and a histogram one with explicit buckets, whose counts are of each
bucket alone. Every point counts since the server started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client import samples
from prometheus_client.metrics_core import Metric as Family

from mlserve.server.telemetry.otlp.spans import SCOPE

_UNITS = {"seconds": "s", "bytes": "By"}
"""Units as the end of a name says them, and as OpenTelemetry does (UCUM)."""
_CUMULATIVE = AggregationTemporality.CUMULATIVE


def metrics_data(
    families: Iterable[Family], resource: Resource, started: int, now: int
) -> MetricsData:
    """Return these families as they were `now`; both times are nanoseconds since 1970."""
    metrics = [_metric(family, started, now) for family in families]
    scope = ScopeMetrics(SCOPE, [metric for metric in metrics if metric is not None], "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, started: int, now: int) -> Metric | None:
    """Return the family; None for one without points."""
    name, is_counter = family.name, family.type == "counter"
    data: Histogram | Sum | Gauge
    if family.type == "histogram":
        data = Histogram(list(_histograms(family, started, now)), _CUMULATIVE)
    else:
        name = f"{name}_total" if is_counter else name
        since = started if is_counter else 0
        points = [_number(sample, since, now) for sample in family.samples if sample.name == name]
        data = Sum(points, _CUMULATIVE, is_monotonic=True) if is_counter else Gauge(points)
    unit = _unit(family.name)
    return Metric(name, family.documentation, unit, data) if data.data_points else None


def _unit(name: str) -> str:
    """Return the unit that a name has at its end, or before the word `limit`."""
    return _UNITS.get(name.removesuffix("_limit").rpartition("_")[2], "")


def _number(sample: samples.Sample, started: int, now: int) -> NumberDataPoint:
    value = float(sample.value)
    whole = int(value) if value.is_integer() and abs(value) < 2**53 else value
    return NumberDataPoint(dict(sample.labels), started, now, whole)


def _histograms(family: Family, started: int, now: int) -> Iterator[HistogramDataPoint]:
    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        series = found.setdefault(tuple(labels.items()), {"bounds": [], "below": [0]})
        if sample.name.endswith("_bucket"):
            series["bounds"].append(float(sample.labels["le"]))
            series["below"].append(int(sample.value))
        else:
            series[sample.name.rpartition("_")[2]] = sample.value
    for key, series in found.items():
        below = series["below"]
        unknown: Any = None  # the least and the largest value, which no bucket tells
        yield HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=started,
            time_unix_nano=now,
            count=int(series["count"]),
            sum=float(series["sum"]),
            bucket_counts=[here - before for before, here in pairwise(below)],
            explicit_bounds=series["bounds"][:-1],  # the last one is infinite
            min=unknown,
            max=unknown,
        )
