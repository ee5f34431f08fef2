"""How sure a share is that was counted: Wilson's interval."""

from __future__ import annotations

import math

_NORMAL = 1.96
"""Standard deviations of a normal distribution around 95 % of it."""


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share: `hits` of `count`.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22 (1927). Without any count it is from 0 to 1.
    """
    if not count:
        return 0.0, 1.0
    share, square = hits / count, _NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
