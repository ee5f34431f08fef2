"""Where the label of a rung is certain: its margin against the difference in its certificate.

The certificate says how far scores were from the reference's at most, which is absolute for scores
of at most 1 (`mlserve.certificate.verdict.difference`). The best class of the reference can only be
another one if two scores that are that far off can change places. So a label is certain if the best
score is ahead of the second by more than twice that difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def are_certain(scores: Array, difference: float) -> Array:
    """Return bool[N]: whether the best class of each row is surely the reference's best, too.

    `scores` are float[N, classes], in any order. Rows with NaN are not certain, nor those with
    scores beyond 1, for which the difference is not absolute.
    """
    exact = scores.astype(np.float64)
    if not len(exact):
        return np.zeros(0, bool)
    second, best = np.partition(exact, -2, axis=1)[:, -2:].T
    with np.errstate(invalid="ignore"):  # of infinite scores, the margin is NaN
        is_ahead = best - second > 2 * difference
        certain: Array = is_ahead & (np.abs(exact).max(axis=1) <= 1 + difference)
    return certain
