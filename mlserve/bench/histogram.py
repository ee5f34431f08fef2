"""A histogram of times with a bounded error, as HdrHistogram's: small, and merged by adding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

_BITS = 7
_MICRO = 1e6


@dataclass(slots=True)
class Histogram:
    """Counts of times, in buckets of whole microseconds, each at most 1/128 wide of its value.

    Times are given and returned in seconds. The largest is kept as it was.
    """

    counts: Counter[int] = field(default_factory=Counter)
    total: float = 0.0
    largest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a time; a negative one is 0."""
        micros = max(0, int(seconds * _MICRO))
        shift = micros.bit_length() - _BITS - 1
        self.counts[micros if shift <= 0 else (shift << _BITS) + (micros >> shift)] += 1
        self.total += max(0.0, seconds)
        self.largest = max(self.largest, seconds)

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one."""
        self.counts.update(other.counts)
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Self:
        """Return the sum of histograms."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

    def __len__(self) -> int:
        return self.counts.total()

    @property
    def mean(self) -> float | None:
        """The mean, in seconds; None for no times."""
        count = len(self)
        return self.total / count if count else None

    def quantile(self, share: float) -> float | None:
        """Return a time that this share of all do not exceed, in seconds; None for no times."""
        count = len(self)
        if not count:
            return None
        if share >= 1:
            return self.largest
        wanted, seen = max(1.0, share * count), 0
        for low, high, number in self.buckets():
            seen += number
            if seen >= wanted:
                return min((low + high) / 2, self.largest)
        return self.largest

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """Yield the low end, the high end and the count of each bucket that has any, in order."""
        for index in sorted(self.counts):
            shift = max(0, (index >> _BITS) - 1)
            low = (index - (shift << _BITS)) << shift
            yield low / _MICRO, (low + (1 << shift)) / _MICRO, self.counts[index]

    def count_within(self, seconds: float) -> int:
        """Return how many times are at most so long, to the width of a bucket."""
        return sum(count for low, high, count in self.buckets() if (low + high) / 2 <= seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the buckets: the high ends in milliseconds, and the counts."""
        rows = list(self.buckets())
        return {
            "upto_ms": [round(high * 1000, 3) for _, high, _ in rows],
            "count": [number for _, _, number in rows],
        }
