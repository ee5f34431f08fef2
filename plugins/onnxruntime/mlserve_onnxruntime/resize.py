"""Resizes as TensorFlow's `ResizeBilinear(half_pixel_centers=True)`, bit for bit, with numpy.

Only the four neighbours of each pixel of the result are read from the image: the work depends on
the size of the result, not of the photo, which stays as it is (uint8).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
_RGB = 3


class _Axis(NamedTuple):
    """For each position of the result: its two neighbours, and how far it is to the second."""

    low: Array
    high: Array
    fraction: Array


def resized(image: Array, height: int, width: int) -> Array:
    """float32[height, width, 3] of uint8[any height, any width, 3]; values stay in 0..255."""
    rows, columns = _axis(image.shape[0], height), _columns(image.shape[1], width)
    top = _between(image, rows.low, columns)
    bottom = _between(image, rows.high, columns)
    bottom -= top
    bottom *= rows.fraction[:, np.newaxis]
    bottom += top
    return bottom.reshape(height, width, _RGB)


def _between(image: Array, rows: Array, columns: _Axis) -> Array:
    """float32[rows, 3 * columns]: those rows of the image, resized in width."""
    flat = image.reshape(-1)
    starts = (rows * (image.shape[1] * _RGB))[:, np.newaxis]
    left = flat.take(starts + columns.low).astype(np.float32)
    right = flat.take(starts + columns.high).astype(np.float32)
    right -= left
    right *= columns.fraction
    right += left
    result: Array = right
    return result


@lru_cache(maxsize=256)
def _axis(length: int, wanted: int) -> _Axis:
    # The order of the operations and the single precision are TensorFlow's.
    scale = np.float32(length) / np.float32(wanted)
    half = np.float32(0.5)
    position = (np.arange(wanted, dtype=np.float32) + half) * scale - half
    below = np.floor(position)
    low = np.maximum(below.astype(np.int64), 0)
    high = np.minimum(np.ceil(position).astype(np.int64), length - 1)
    return _Axis(low, high, position - below)


@lru_cache(maxsize=256)
def _columns(length: int, wanted: int) -> _Axis:
    """As `_axis`, for each of the three colours of each column, which lie side by side."""
    axis = _axis(length, wanted)
    low, high = (
        (side[:, np.newaxis] * _RGB + np.arange(_RGB)).reshape(-1) for side in (axis.low, axis.high)
    )
    return _Axis(low, high, np.repeat(axis.fraction, _RGB))
