"""The least threshold that keeps a risk: conformal risk control, and its form with confidence.

A part is accepted if its score is above the threshold. The loss is 1 if a bad part is accepted and
0 otherwise; it can only fall as the threshold rises. For `n` scored images of a holdout, and the
next one drawn as they were (exchangeable with them):

- the expected loss of the next is at most `risk` with the least threshold at which
  (false accepts + 1) / (n + 1) <= risk: conformal risk control for a loss of at most 1
  (Angelopoulos, Bates, Fisch, Lei and Schuster, "Conformal Risk Control", ICLR 2024, theorem 1);
- with probability 1 - `delta` over the holdout, the loss of all that follow is at most `risk` with
  the least threshold at which P(Binomial(n, risk) <= false accepts) <= delta: the exact binomial
  bound in place of Hoeffding's (Bates, Angelopoulos, Lei, Malik and Jordan, "Distribution-Free,
  Risk-Controlling Prediction Sets", JACM 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def allowed(images: int, risk: float, delta: float | None = None) -> int:
    """Return how many of the holdout's images may be accepted falsely; -1 if there are too few."""
    if delta is None:
        return math.floor(_exact(risk) * (images + 1)) - 1
    most, log_below = -1, -math.inf
    while most < images:
        log_below = _log_sum(log_below, _log_probability(most + 1, images, risk))
        if log_below > math.log(delta):
            break
        most += 1
    return most


def needed(risk: float, delta: float | None = None) -> int:
    """Return the least number of images with which `allowed` is not negative."""
    if delta is None:
        return max(1, math.ceil(1 / _exact(risk) - 1))
    least = max(1, math.floor(math.log(delta) / math.log1p(-risk)))
    while allowed(least, risk, delta) < 0:
        least += 1
    return least


def threshold(scores: Sequence[float], most: int) -> float:
    """Return the least threshold that at most `most` of the scores are above.

    It is -infinity if there are no more scores than that. `scores` hold -infinity for an image
    that no threshold accepts.
    """
    if most < 0:
        raise ValueError("no threshold is high enough")
    falling = sorted(scores, reverse=True)
    return falling[most] if most < len(falling) else -math.inf


def _exact(risk: float) -> Fraction:
    """Return the number that was written: 0.01 is 1/100, which no float is."""
    return Fraction(repr(float(risk)))


def _log_probability(hits: int, of: int, risk: float) -> float:
    """Return the logarithm of P(Binomial(of, risk) = hits)."""
    ways = math.lgamma(of + 1) - math.lgamma(hits + 1) - math.lgamma(of - hits + 1)
    return ways + hits * math.log(risk) + (of - hits) * math.log1p(-risk)


def _log_sum(one: float, other: float) -> float:
    """Return log(exp(one) + exp(other))."""
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
