"""A test that may be looked at after every event: whether hits are more frequent than is allowed.

Looking again and again at a test of fixed size finds something sooner or later, even where there is
nothing. This one is valid at every moment: it is a mixture of sequential probability ratios, each
the likelihood of what was seen at a higher share over that at the allowed one. If the true share is
not above the allowed one, each ratio, and so their mean, is a non-negative supermartingale that
begins at 1; by Ville's inequality it ever reaches 1/alpha with a probability of at most alpha. That
holds for any stopping time, and as long as each event's chance given the past is not above the
allowed share, be the events independent or not.

H. Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
Mathematical Statistics 41 (1970); R. Johari, P. Koomen, L. Pekelis, D. Walsh, "Always Valid
Inference: Continuous Monitoring of A/B Tests", Operations Research 70 (2022); J. Ville, "Étude
critique de la notion de collectif" (1939) has the inequality.
"""

from __future__ import annotations

import math

_ODDS = (1.25, 1.6, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""By how much the odds of an event may have risen: the alternatives that are mixed, all alike.

Between two of them the test needs little longer than if it had known the true one.
"""


class RiseTest:
    """Tells, after each event, whether hits are more frequent than `allowed`, a share from 0 to 1.

    The chance that it ever does so in error is at most `alpha`. An `allowed` share of 1 is never
    exceeded; with 0, the first hit exceeds it.
    """

    def __init__(self, allowed: float, alpha: float) -> None:
        self.allowed = allowed
        self.alpha = alpha
        self.hits = 0
        self.misses = 0
        self.has_risen = False
        """Whether it has ever found so; it stays found."""
        self._steps = [_steps(allowed, odds) for odds in _ODDS] if 0 < allowed < 1 else []

    @property
    def count(self) -> int:
        """The number of events so far."""
        return self.hits + self.misses

    @property
    def log_evidence(self) -> float:
        """The logarithm of the mixture: how much better a higher share explains what was seen."""
        if not self._steps:
            return math.inf if self.hits and not self.allowed else 0.0
        logs = [self.hits * hit + self.misses * miss for hit, miss in self._steps]
        top = max(logs)
        return top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))

    def add(self, is_hit: bool) -> bool:
        """Take an event; return whether hits are more frequent than is allowed."""
        if is_hit:
            self.hits += 1
        else:
            self.misses += 1
        # A miss speaks for fewer hits: only a hit can bring it about.
        if is_hit and not self.has_risen:
            self.has_risen = self.log_evidence >= -math.log(self.alpha)
        return self.has_risen


def _steps(allowed: float, odds: float) -> tuple[float, float]:
    """Return what a hit and a miss add to the log of the ratio, if the odds have risen so."""
    share = odds * allowed / (1 - allowed + odds * allowed)
    return math.log(share / allowed), math.log((1 - share) / (1 - allowed))
