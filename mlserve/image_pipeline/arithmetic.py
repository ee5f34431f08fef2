"""Pixels to the model's numbers: the arithmetic of a pipeline, and its table for whole pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mlserve.pipeline import ImagePipeline
from mlserve.preprocessing import Arithmetic

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=64)
def table(pipeline: ImagePipeline) -> Array:
    """Return float32[256, depth]: what the pixel values 0 to 255 become in each channel.

    Every backend that resizes to uint8 looks its numbers up here, so that all give the same bits.
    """
    depth = pipeline.preprocessing.depth
    values = np.repeat(np.arange(256, dtype=np.float32)[:, np.newaxis], depth, axis=1)
    result = normalized(values, pipeline)
    result.flags.writeable = False
    return result


def normalized(values: Array, pipeline: ImagePipeline) -> Array:
    """Return what pixels become: float32[..., depth] of 0..255, changed in place where possible."""
    steps = pipeline.preprocessing
    scale, offset = pipeline.scale, pipeline.offset
    mean, std = (np.array(numbers, np.float32) for numbers in (steps.mean, steps.std))
    match steps.arithmetic:
        case Arithmetic.MULTIPLY:
            values *= np.float32(scale)
        case Arithmetic.DIVIDE:
            values /= np.float32(1 / scale)
        case Arithmetic.MULTIPLY_DOUBLE:
            values = (values.astype(np.float64) * scale).astype(np.float32)
        case Arithmetic.FUSED:
            # transformers multiplies the float32 mean and std by 1 / rescale_factor.
            mean, std = mean * np.float32(1 / scale), std * np.float32(1 / scale)
    if steps.arithmetic is not Arithmetic.FUSED:
        values += np.float32(offset)
    if mean.size:
        values -= mean
    if std.size:
        values /= std
    return values
