"""Where the label of a rung is certain: its margin against what its certificate allows.

The certificate says how far a score may be from the reference's: its tolerance, absolute between -1
and 1, and relative to the reference beyond. The best class of the reference can only be another one
if two scores that far off can change places. So a label is certain if the best score is ahead of
the second by more than the two may be off together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def two_best(scores: Array) -> Array:
    """Return float64[N, 2]: the best score of each row and the second best; NaN comes first."""
    if len(scores) == 0:
        return np.empty((0, 2))
    highest = np.partition(scores.astype(np.float64), -2, axis=1)[:, -2:]
    return highest[:, ::-1]


def are_certain(best: Array, tolerance: float, *, are_probabilities: bool) -> Array:
    """Return bool[N]: whether a label within that tolerance is the reference's label.

    `best` are the two best scores of each row, float64[N, 2]. NaN is never certain. The scores of
    the reference are at most 1 if they `are_probabilities`; else they may be larger than these.
    """
    if tolerance >= 1:
        return np.zeros(len(best), bool)
    off = np.full(best.shape, tolerance)
    if not are_probabilities:
        off *= np.maximum(1.0, np.abs(best) / (1 - tolerance))
    with np.errstate(invalid="ignore"):  # of infinite scores, the margin is NaN
        certain: Array = best[:, 0] - best[:, 1] > off.sum(axis=1)
    return certain
