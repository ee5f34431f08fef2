"""A histogram's percentiles are those of its values, within the width of a bucket."""

from __future__ import annotations

import random

import pytest

from mlserve.bench.histogram import Histogram


def _histogram(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 0.999])
def test_a_percentile_is_within_one_percent(share: float) -> None:
    chance = random.Random(1)
    values = sorted(chance.lognormvariate(-5, 2) for _ in range(20_000))
    exact = values[int(share * len(values)) - 1]
    assert _histogram(values).quantile(share) == pytest.approx(exact, rel=0.01, abs=2e-6)


def test_parts_merged_are_the_whole() -> None:
    chance = random.Random(2)
    values = [chance.expovariate(100) for _ in range(5000)]
    parts = [_histogram(values[start::3]) for start in range(3)]
    whole, merged = _histogram(values), Histogram.merged(parts)
    assert merged.counts == whole.counts
    assert merged.largest == max(values) == whole.quantile(1.0)
    assert merged.mean == pytest.approx(sum(values) / len(values))


def test_every_bucket_holds_its_values() -> None:
    for micros in [0, 1, 127, 128, 129, 255, 256, 511, 1000, 12345, 10**6, 10**9 + 7]:
        [(low, high, count)] = _histogram([(micros + 0.5) / 1e6]).buckets()
        assert low <= (micros + 0.5) / 1e6 < high
        assert count == 1
        assert high - low <= max(1.0001e-6, low / 127)


def test_nothing_has_no_percentile() -> None:
    empty = Histogram()
    assert (empty.quantile(0.5), empty.mean, len(empty)) == (None, None, 0)
    assert empty.to_json() == {"upto_ms": [], "count": []}


def test_times_within_a_limit_are_counted() -> None:
    histogram = _histogram([0.001, 0.002, 0.003, 0.5])
    assert [histogram.count_within(limit) for limit in (0.0005, 0.0025, 0.1, 1)] == [0, 2, 3, 4]


def test_a_negative_time_counts_as_none() -> None:
    """A clock that was set back, or what a server says of itself."""
    histogram = _histogram([-0.5, 0.002])
    assert next(low for low, _, _ in histogram.buckets()) == 0.0
    assert histogram.count_within(0.001) == 1
    assert histogram.mean == 0.001
