"""From the model's outputs to scores, and from scores to the best classes, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253

from mlserve.pipeline import Activation

Array = np.ndarray[Any, Any]


def activated(outputs: Array, activation: Activation) -> Array:
    """float32[N, classes]: scores that add up to 1."""
    match activation:
        case Activation.SOFTMAX:
            powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            result: Array = powers / powers.sum(axis=1, keepdims=True)
            return result
        case Activation.IDENTITY:
            return outputs
        case Activation.SIGMOID:
            return np.concatenate([_sigmoid(-outputs), _sigmoid(outputs)], axis=1)
        case Activation.COMPLEMENT:
            return np.concatenate([1 - outputs, outputs], axis=1)


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
