"""From the model's outputs to scores, and from scores to the best classes, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.images import INFINITE, NAN, problem_text, scores_failed
from mlserve.pipeline import Activation

Array = np.ndarray[Any, Any]


def activated(outputs: Array, activation: Activation) -> Array:
    """float32[N, classes]: scores that add up to 1."""
    match activation:
        case Activation.SOFTMAX:
            with np.errstate(invalid="ignore"):  # `require_finite` says it better
                powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                result: Array = powers / powers.sum(axis=1, keepdims=True)
            return result
        case Activation.IDENTITY:
            return outputs
        case Activation.SIGMOID:
            return np.concatenate([_sigmoid(-outputs), _sigmoid(outputs)], axis=1)
        case Activation.COMPLEMENT:
            return np.concatenate([1 - outputs, outputs], axis=1)


def require_finite(scores: Array) -> Array:
    """The scores, float32[N, classes]. Raises InferenceFailed, naming the first bad image."""
    is_finite = np.isfinite(scores)
    if is_finite.all():
        return scores
    index = int(is_finite.all(axis=1).argmin())
    row = scores[index]
    kind = NAN if np.isnan(row).any() else INFINITE
    text = problem_text(int((~is_finite[index]).sum()), len(row), kind)
    raise scores_failed(index, len(scores), text)


def best(scores: Array, count: int) -> tuple[Array, Array]:
    """The `count` highest scores, float32[N, count], and their indices, int32[N, count].

    Of equal scores the lower index comes first.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, axis=1), order.astype(np.int32)


def _sigmoid(values: Array) -> Array:
    small = np.exp(-np.abs(values))  # never overflows
    result: Array = np.where(values < 0, small, np.float32(1)) / (1 + small)
    return result
