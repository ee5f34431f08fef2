"""Counters and histograms that cost a request next to nothing.

Prometheus's own lock each number and walk over the buckets in Python. These are for one thread, the
event loop's, and become Prometheus's families when the page is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Counter(Collector):
    """A count for each combination of label values."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._about = name, text, labels
        self._counts: dict[Labels, int] = {}

    def begin(self, *labels: str) -> None:
        """Show this series from now on, at zero."""
        self._counts.setdefault(labels, 0)

    def add(self, labels: Labels, count: int = 1) -> None:
        """Count one, or several at once."""
        counts = self._counts
        counts[labels] = counts.get(labels, 0) + count

    def collect(self) -> Iterator[Metric]:
        """Yield the family as it is now."""
        name, text, names = self._about
        family = CounterMetricFamily(name, text, labels=names)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class _Observed:
    """One series: how many values fell under each bound and no smaller one, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0


class Histogram(Collector):
    """The distribution of a value for each combination of label values."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._about = name, text, labels
        self._bounds = bounds
        self._series: dict[Labels, _Observed] = {}

    def begin(self, *labels: str) -> None:
        """Show this series from now on, at zero."""
        self._series.setdefault(labels, _Observed(len(self._bounds)))

    def observe(self, labels: Labels, value: float) -> None:
        """Count a value."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Observed(len(self._bounds))
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def collect(self) -> Iterator[Metric]:
        """Yield the family as it is now; a bucket counts the smaller ones too."""
        name, text, names = self._about
        family = HistogramMetricFamily(name, text, labels=names)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, series in self._series.items():
            buckets, below = [], 0
            for bound, count in zip(bounds, series.counts, strict=True):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric(labels, buckets, series.total)
        yield family
