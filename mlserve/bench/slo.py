"""A service level: which part of the requests has to be answered within which time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from mlserve.bench.tally import ANSWERED, LATE, Tally
from mlserve.errors import UsageError, shortened
from mlserve.proportions import wilson

_FORM = re.compile(r"(p\d{1,2}(?:\.\d+)?|max)=(\d+(?:\.\d+)?)(ms|s)")
_USAGE = "write for example --slo p99=200ms, or --slo p50=20ms,p99.9=1s"


@dataclass(frozen=True, slots=True)
class Level:
    """One part of a service level: this `share` of all requests is answered within `seconds`."""

    share: float
    seconds: float

    def __str__(self) -> str:
        name = "max" if self.share >= 1 else f"p{self.share * 100:g}"
        return f"{name}={self.seconds * 1000:g}ms"


@dataclass(frozen=True, slots=True)
class Slo:
    """A service level. What is refused, fails or is late has missed it."""

    levels: tuple[Level, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `p99=200ms`, or several, separated by commas. Raises UsageError."""
        levels = []
        for part in text.split(","):
            found = _FORM.fullmatch(part.strip())
            share = _share(found[1]) if found else 0.0
            if found is None or not share or float(found[2]) <= 0:
                raise UsageError(f"--slo {shortened(part)!r} is not a service level", hint=_USAGE)
            levels.append(Level(share, float(found[2]) / (1000 if found[3] == "ms" else 1)))
        return cls(tuple(levels))

    @classmethod
    def of_goodput(cls, share: float, timeout: float) -> Self:
        """Return the service level that this share is answered within the timeout."""
        return cls((Level(share, timeout),))

    def __str__(self) -> str:
        return ",".join(map(str, self.levels))

    def judge(self, tally: Tally) -> Verdict:
        """Return whether a load held the level, by the part of it that is nearest to a miss."""
        count = tally.requests
        verdicts = [Verdict(level, _within(tally, level.seconds), count) for level in self.levels]
        return min(verdicts, key=lambda verdict: verdict.share - verdict.level.share)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a load did: `within` of `count` requests were answered within the level's time."""

    level: Level
    within: int
    count: int

    @property
    def share(self) -> float:
        """The part that was answered within the time; 0 for no requests."""
        return self.within / self.count if self.count else 0.0

    @property
    def is_held(self) -> bool:
        """Whether enough were."""
        return self.count > 0 and self.share >= self.level.share

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the share (Wilson's)."""
        return wilson(self.within, self.count)

    @property
    def is_sure(self) -> bool:
        """Whether chance alone hardly explains it: the level is outside the interval."""
        low, high = self.interval
        return low >= self.level.share if self.is_held else high < self.level.share

    def to_json(self) -> dict[str, Any]:
        return {
            "slo": str(self.level),
            "is_held": self.is_held,
            "is_sure": self.is_sure,
            "share": round(self.share, 5),
            "interval": [round(end, 5) for end in self.interval],
        }


def _share(name: str) -> float:
    """Return the share that `p99.9` or `max` names, as near as a float: 999 of 1000 hold p99.9."""
    return 1.0 if name == "max" else float(Fraction(name.removeprefix("p")) / 100)


def _within(tally: Tally, seconds: float) -> int:
    """Return how many requests were answered within that time, to the width of a bucket."""
    answered = [tally.latencies[kind] for kind in (ANSWERED, LATE) if kind in tally.latencies]
    return sum(histogram.count_within(seconds) for histogram in answered)
