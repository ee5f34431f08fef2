"""When a second replica is asked: after the time that a share of answers takes.

The time is read from Envoy's histogram of the last `_WINDOW` seconds, and becomes the route's
per-try timeout. What it costs is bounded: at most `BUDGET` of the requests of the window are asked
twice. Hedging stops when those that could be asked twice before the next look, were all of them
slow, would go beyond that: so a moment in which everything is slow doubles nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BUDGET = 0.02
"""The most requests of a window that are asked twice, as a share."""
_AIM = 0.985
"""The smallest share of answers that is waited for: a smaller one would spend the budget on those
that come first."""
_WINDOW = 120.0
_FEWEST = 200
"""Answers below which a quantile says nothing."""
_CHANGE = 0.1
"""The smallest change of the time, as a share, for which the routes are written again."""
_EVERY = 1.0
_HORIZON = 0.5
"""Seconds until a decision to stop is in force."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was read at one time: answers by the most milliseconds they took, and counters."""

    at: float
    answers: Mapping[float, int]
    requests: int
    hedged: int


class Hedging:
    """Decides on the time after which a second replica is asked. `quantile` is a share."""

    def __init__(self, quantile: float) -> None:
        self._quantile = max(quantile, _AIM)
        self._looks: deque[Look] = deque()
        self._patience: float | None = None

    def patience(self, look: Look, active: int, replicas: int) -> float | None:
        """Return the seconds to wait before a second replica is asked; None: do not ask one.

        `active` requests are under way, and `replicas` are ready.
        """
        oldest = self._remember(look)
        requests, hedged = look.requests - oldest.requests, look.hedged - oldest.hedged
        rate = requests / max(look.at - oldest.at, _EVERY)
        could_be = active + rate * _HORIZON
        if replicas < 2 or BUDGET * requests - hedged < could_be:  # noqa: PLR2004 - one and another
            return None
        slow = quantile_of(_between(oldest.answers, look.answers), self._quantile)
        if slow is None:
            self._patience = None
        elif self._patience is None or abs(slow - self._patience) > _CHANGE * self._patience:
            self._patience = slow
        return self._patience

    def _remember(self, look: Look) -> Look:
        """Add what was read, and return what it is compared with: the beginning of the window."""
        looks = self._looks
        if looks and look.requests < looks[-1].requests:  # Envoy has been started again
            looks.clear()
        if not looks or look.at - looks[-1].at >= _EVERY:
            looks.append(look)
        while len(looks) > 1 and look.at - looks[1].at >= _WINDOW:
            looks.popleft()
        return looks[0]


def quantile_of(answers: Mapping[float, int], share: float) -> float | None:
    """Return the seconds within which that share of answers came; None if they are too few.

    It is the end of a bucket, so never less than it was.
    """
    total = max(answers.values(), default=0)
    if total < _FEWEST:
        return None
    return min(bound for bound, count in answers.items() if count >= share * total) / 1000


def together(histograms: Iterable[Mapping[float, int]]) -> dict[float, int]:
    """Return the sum of histograms with the same buckets."""
    total: dict[float, int] = {}
    for one in histograms:
        for bound, count in one.items():
            total[bound] = total.get(bound, 0) + count
    return total


def _between(before: Mapping[float, int], after: Mapping[float, int]) -> dict[float, int]:
    return {bound: count - before.get(bound, 0) for bound, count in after.items()}
