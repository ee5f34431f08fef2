"""The percentiles of latencies, as every command shows them, and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

OF_LOADS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
"""The percentiles of a load's latencies, and the share of them that each does not exceed."""

_LARGEST_IN_FULL = 1e6


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The median and the tail of some latencies, in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def from_values(cls, milliseconds: Sequence[float]) -> Self | None:
        """Compute them, interpolating between neighbours; None for no values."""
        if not milliseconds:
            return None
        ordered = sorted(milliseconds)
        return cls(*(_quantile(ordered, share) for share in (0.5, 0.95, 0.99)))

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def in_digits(value: float, digits: int) -> str:
    """Return a number in so many digits: `255` and not `2.5e+02`, `1.2e-07` where it is tiny."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < _LARGEST_IN_FULL else text
