"""Resize without antialiasing as TensorFlow's `tf.image.resize` does, bit for bit.

Only the neighbours of each output pixel are read from the image, which stays uint8: the work
depends on the size of the result, not of the photo. The order of operations and the single
precision match TensorFlow's kernels (resize_bilinear_op.cc, resize_bicubic_op.cc) with half-pixel
centres.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mlserve.preprocessing import Geometry, Interpolation, Span

Array = np.ndarray[Any, Any]


class Axis(NamedTuple):
    """For each output position: its two neighbours, and the weight of the second; 0 if it is alone.

    The second is the one after the first, or the same one.
    """

    low: Array
    high: Array
    fraction: Array


class CubicAxis(NamedTuple):
    """For each output position its four neighbours, int64[4, length], and their weights."""

    places: Array
    weights: Array


def resized(image: Array, height: int, width: int) -> Array:
    """Resize uint8[any height, any width, depth] to float32[height, width, depth], bilinear."""
    rows, columns = Span(0, height, 0), Span(0, width, 0)
    return float_resized(image, Geometry(height, width, rows, columns), Interpolation.BILINEAR)


def float_resized(image: Array, geometry: Geometry, interpolation: Interpolation) -> Array:
    """Resize uint8[any height, any width, depth], and cut the part that the model gets.

    Returns float32[rows, columns, depth] in 0..255; bicubic values may lie a little outside.
    """
    resize = _bicubic if interpolation is Interpolation.BICUBIC else _bilinear
    shape = geometry.rows.length, geometry.columns.length, image.shape[2]
    return resize(image, geometry).reshape(shape)


def _bilinear(image: Array, geometry: Geometry) -> Array:
    height, width, depth = image.shape
    first = _first_of_four((height, width, depth), geometry)
    rows = _cut_axis(height, geometry.height, geometry.rows)
    columns = _columns(width, geometry.width, geometry.columns, depth)
    flat, row = image.reshape(-1), width * depth
    top = _between(flat, first, depth, columns.fraction)
    bottom = _between(flat[row:] if height > 1 else flat, first, depth, columns.fraction)
    bottom -= top
    bottom *= rows.fraction[:, np.newaxis]
    bottom += top
    return bottom


@lru_cache(maxsize=2)
def _first_of_four(shape: tuple[int, int, int], geometry: Geometry) -> Array:
    """Return where the upper left one of each value's four neighbours lies in the flat image.

    Kept for two shapes, as it takes megabytes, and a camera's images are all alike.
    """
    height, width, depth = shape
    rows = _cut_axis(height, geometry.height, geometry.rows)
    columns = _columns(width, geometry.width, geometry.columns, depth)
    first: Array = (rows.low * (width * depth))[:, np.newaxis] + columns.low
    return first


def _between(flat: Array, first: Array, depth: int, fraction: Array) -> Array:
    """Return float32[rows, depth * columns]: these values, resized in width.

    Where the image has no further column or row, something else is read; its weight is 0.
    """
    left = flat.take(first, mode="clip").astype(np.float32)
    right = flat[min(depth, flat.size - 1) :].take(first, mode="clip").astype(np.float32)
    right -= left
    right *= fraction
    right += left
    return right


def axis(length: int, wanted: int) -> Axis:
    """Return how an axis of that length is resized."""
    return _cut_axis(length, wanted, Span(0, wanted, 0))


@lru_cache(maxsize=256)
def _cut_axis(length: int, wanted: int, part: Span) -> Axis:
    """Return that part of `axis`."""
    position, below = _positions(length, wanted, part)
    low = np.maximum(below.astype(np.int64), 0)
    high = np.minimum(np.ceil(position).astype(np.int64), length - 1)
    return Axis(low, high, np.where(low == high, np.float32(0), position - below))


@lru_cache(maxsize=256)
def _columns(length: int, wanted: int, part: Span, depth: int) -> Axis:
    """Return that part of `axis` for each colour of each column; colours are interleaved."""
    of_pixels = _cut_axis(length, wanted, part)
    low, high = (_of_colours(side, depth) for side in of_pixels[:2])
    return Axis(low, high, np.repeat(of_pixels.fraction, depth))


def _positions(length: int, wanted: int, part: Span) -> tuple[Array, Array]:
    """Return where each output position lies in the image, and the position below it."""
    scale = np.float32(length) / np.float32(wanted)
    half = np.float32(0.5)
    outputs = np.arange(part.start, part.start + part.length, dtype=np.float32)
    position = (outputs + half) * scale - half
    return position, np.floor(position)


def _of_colours(places: Array, depth: int) -> Array:
    """Return the places of each colour of these pixels, one after another."""
    result: Array = (places[..., np.newaxis] * depth + np.arange(depth)).reshape(
        *places.shape[:-1], -1
    )
    return result


def _bicubic(image: Array, geometry: Geometry) -> Array:
    height, width, depth = image.shape
    rows = _cubic_axis(height, geometry.height, geometry.rows)
    columns = _cubic_axis(width, geometry.width, geometry.columns)
    flat = image.reshape(-1)
    starts = rows.places[:, :, np.newaxis] * (width * depth)
    down = rows.weights[:, :, np.newaxis]
    across = np.repeat(columns.weights, depth, axis=1)
    total = np.zeros((geometry.rows.length, geometry.columns.length * depth), np.float32)
    for places, weights in zip(_of_colours(columns.places, depth), across, strict=True):
        column = flat.take(starts[0] + places).astype(np.float32) * down[0]
        for neighbour in range(1, 4):
            column += flat.take(starts[neighbour] + places).astype(np.float32) * down[neighbour]
        column *= weights
        total += column
    return total


CUBIC_STEPS = 1024
"""TensorFlow looks the weights up in a table of this many steps between two pixels."""


@lru_cache(maxsize=256)
def _cubic_axis(length: int, wanted: int, part: Span) -> CubicAxis:
    """Return how that part of an axis is resized: neighbours outside the image weigh nothing."""
    position, below = _positions(length, wanted, part)
    step = np.rint((position - below) * np.float32(CUBIC_STEPS)).astype(np.int64)
    near, far = cubic_weights()
    weights = np.stack([far[step], near[step], near[CUBIC_STEPS - step], far[CUBIC_STEPS - step]])
    places = below.astype(np.int64) + np.arange(-1, 3)[:, np.newaxis]
    inside = np.clip(places, 0, length - 1)
    weights = np.where(inside == places, weights, np.float32(0))
    total = ((weights[0] + weights[1]) + weights[2]) + weights[3]
    return CubicAxis(inside, weights * (np.float32(1) / total))


@lru_cache(maxsize=1)
def cubic_weights() -> tuple[Array, Array]:
    """Return Keys' cubic kernel (a = -0.5) for distances of 0 to 1, and of 1 to 2 pixels."""
    a = -0.5
    near = np.arange(CUBIC_STEPS + 1, dtype=np.float32) / np.float32(CUBIC_STEPS)
    far = near + np.float32(1)
    near, far = near.astype(np.float64), far.astype(np.float64)
    return (
        (((a + 2) * near - (a + 3)) * near * near + 1).astype(np.float32),
        (((a * far - 5 * a) * far + 8 * a) * far - 4 * a).astype(np.float32),
    )
