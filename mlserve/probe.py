"""Finds out by running a model what its outputs are: probabilities or logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.errors import ExportError
from mlserve.pipeline import Activation

_ROUNDING = 1e-6
_SUM_TOLERANCE = 1e-3


def probe(call: Callable[[Any], Any], height: int, width: int) -> tuple[int, Activation]:
    """The number of output units of `call`, and what turns them into scores.

    Runs plain and seeded random images of growing range: a sigmoid or softmax stays in [0,1]
    whatever it is given, logits do not. Raises ExportError for an output that is not
    float32[N, units], that is not finite, or that is neither.
    """
    rng = np.random.default_rng(0)
    shape = (height, width, 3)
    ranges = ((0, 1), (-1, 1), (0, 255), (-255, 255))
    plain = [np.full(shape, value) for value in (0, 255, -255)]
    images = [*plain, *(rng.uniform(low, high, shape) for low, high in ranges)]
    outputs = np.asarray(call(np.stack(images).astype(np.float32)))
    if outputs.ndim != 2 or len(outputs) != len(images) or not outputs.shape[1]:  # noqa: PLR2004
        raise ExportError(
            f"the model answers {len(images)} images with the shape {list(outputs.shape)}, "
            "not [N,classes]",
            hint="export a classifier: one row of scores for each image",
        )
    if not np.isfinite(outputs).all():
        raise ExportError("the model's output is not finite (NaN or infinity) for random images")
    return outputs.shape[1], _activation(outputs)


def _activation(outputs: np.ndarray[Any, Any]) -> Activation:
    units = outputs.shape[1]
    is_within = bool((outputs >= -_ROUNDING).all() and (outputs <= 1 + _ROUNDING).all())
    if units == 1:
        return Activation.COMPLEMENT if is_within else Activation.SIGMOID
    if not is_within:
        return Activation.SOFTMAX
    if np.abs(outputs.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
        return Activation.IDENTITY
    raise multi_label(units)


def multi_label(units: int) -> ExportError:
    """The error for a model of several independent yes/no outputs.

    Its scores do not add up to 1, and the one label that is served would be a guess where none or
    several of them apply: a part without a defect would still be given the name of one.
    """
    return ExportError(
        f"the model's {units} outputs are independent probabilities (sigmoid), not one choice "
        "among classes",
        hint="end the model in softmax, or in one sigmoid unit for two classes",
    )
