"""When the requests of an open loop arrive: planned ahead, from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from mlserve.errors import UsageError, shortened

_USAGE = "choose poisson, even, or gamma:CV, for example gamma:2 for bursts"
_LARGEST_CV = 100.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How arrivals are spread: `cv` is the standard deviation of their gaps over their mean.

    1 is Poisson (arrivals that know nothing of each other), 0 an even beat, above 1 bursts. The
    gaps have a gamma distribution.
    """

    cv: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `poisson`, `even` or `gamma:CV`; `gamma` alone has a CV of 2. Raises UsageError."""
        name, colon, number = text.partition(":")
        if not colon and name in _NAMED:
            return cls(_NAMED[name])
        try:
            cv = float(number) if name == "gamma" else math.nan
        except ValueError:
            cv = math.nan
        if not 0 <= cv <= _LARGEST_CV:
            raise UsageError(f"--arrivals {shortened(text)!r} is not known", hint=_USAGE)
        return cls(cv)

    def __str__(self) -> str:
        named = {cv: name for name, cv in _NAMED.items() if name != "gamma"}
        return named.get(self.cv, f"gamma:{self.cv:g}")

    def moments(self, rate: float, seconds: float, seed: int) -> Iterator[float]:
        """Yield the moments of arrival, in seconds from 0, below `seconds`."""
        chance = random.Random(seed)  # noqa: S311  a plan to repeat, not a secret
        mean, at = 1 / rate, 0.0
        shape = 1 / self.cv**2 if self.cv else math.inf
        while True:
            at += mean if self.cv == 0 else chance.gammavariate(shape, mean / shape)
            if at >= seconds:
                return
            yield at


@dataclass(frozen=True, slots=True)
class PlannedArrivals(Arrivals):
    """Moments that are known, in seconds from 0 and in order: neither rate nor seed matters."""

    planned: Sequence[float] = ()

    def __str__(self) -> str:
        return "planned"

    def moments(self, rate: float, seconds: float, seed: int) -> Iterator[float]:
        """Yield the moments below `seconds`."""
        return iter([moment for moment in self.planned if moment < seconds])


_NAMED = {"poisson": 1.0, "even": 0.0, "gamma": 2.0}
