"""Sums that fade: how much of something there was lately, by key."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
_LEAST = 1e-3
"""A rate below this is forgotten."""


class Rates(Generic[Key]):
    """Amounts a second, by key; what is `memory` seconds old counts for a third."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._sums: dict[Key, tuple[float, float]] = {}

    def add(self, key: Key, amount: float, now: float) -> None:
        """Count that much."""
        self._sums[key] = self._faded(key, now) + amount, now

    def of(self, key: Key, now: float) -> float:
        """Return the amount a second of that key."""
        return self._faded(key, now) / self._memory

    def items(self, now: float) -> Iterator[tuple[Key, float]]:
        """Yield each key with its amount a second; forget those of which there is none."""
        for key in list(self._sums):
            rate = self.of(key, now)
            if rate < _LEAST:
                del self._sums[key]
            else:
                yield key, rate

    def _faded(self, key: Key, now: float) -> float:
        total, at = self._sums.get(key, (0.0, now))
        return total * math.exp(min(0.0, at - now) / self._memory)
