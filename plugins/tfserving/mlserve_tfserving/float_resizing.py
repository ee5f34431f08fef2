"""Resize without antialiasing, as `mlserve.image_pipeline.float_resizing`, with TensorFlow's ops.

TensorFlow's own kernels resize a whole image. A part of a resized image is made of gathered
neighbours with the same arithmetic, so that a long strip, whose shorter side is enlarged, costs no
more than the part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlserve.image_pipeline.float_resizing import CUBIC_STEPS, cubic_weights
from mlserve.preprocessing import Geometry, Interpolation, Span
from mlserve_tfserving.run_time import at_run_time


def float_resized(image: tf.Tensor, geometry: Geometry, interpolation: Interpolation) -> tf.Tensor:
    """Resize uint8[any height, any width, depth], and cut the part that the model gets.

    The numbers of the geometry are ints or int32 scalars. Returns float32[rows, columns, depth] in
    0..255; bicubic values may lie a little outside.
    """
    if _is_whole(geometry):
        return _whole(image, geometry, interpolation)
    resize = _bicubic if interpolation is Interpolation.BICUBIC else _bilinear
    return resize(image, geometry)


def _is_whole(geometry: Geometry) -> bool:
    """Whether it is known that the model gets the whole resized image."""
    spans = ((geometry.height, geometry.rows), (geometry.width, geometry.columns))
    return all(isinstance(size, int) and part == Span(0, size, 0) for size, part in spans)


def _whole(image: tf.Tensor, geometry: Geometry, interpolation: Interpolation) -> tf.Tensor:
    is_cubic = interpolation is Interpolation.BICUBIC
    resize = tf.raw_ops.ResizeBicubic if is_cubic else tf.raw_ops.ResizeBilinear
    size = [geometry.height, geometry.width]
    return resize(images=image[tf.newaxis], size=size, half_pixel_centers=True)[0]


def _axes(image: tf.Tensor, geometry: Geometry) -> Iterable[tuple[tf.Tensor, tf.Tensor, Span]]:
    """Return the length, the wanted length and the part of both axes."""
    shape = tf.unstack(tf.shape(image)[:2])
    size = tf.unstack(at_run_time([geometry.height, geometry.width], shape[0]))
    return zip(shape, size, (geometry.rows, geometry.columns), strict=True)


def _positions(length: tf.Tensor, wanted: tf.Tensor, part: Span) -> tuple[tf.Tensor, tf.Tensor]:
    """Return where each output position lies in the image, and the position below it, float32."""
    scale = _float(length) / _float(wanted)
    position = (_float(part.start + tf.range(part.length)) + 0.5) * scale - 0.5
    return position, tf.floor(position)


class _Axis(NamedTuple):
    """For each output position: its two neighbours, int32, and the weight of the second."""

    low: tf.Tensor
    high: tf.Tensor
    fraction: tf.Tensor


def _axis(length: tf.Tensor, wanted: tf.Tensor, part: Span) -> _Axis:
    position, below = _positions(length, wanted, part)
    low = tf.maximum(tf.cast(below, tf.int32), 0)
    high = tf.minimum(tf.cast(tf.math.ceil(position), tf.int32), length - 1)
    return _Axis(low, high, position - below)


def _bilinear(image: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    rows, columns = (_axis(*axis) for axis in _axes(image, geometry))
    top, bottom = (_between(tf.gather(image, side), columns) for side in rows[:2])
    return top + (bottom - top) * rows.fraction[:, tf.newaxis, tf.newaxis]


def _between(lines: tf.Tensor, columns: _Axis) -> tf.Tensor:
    """Return float32[rows, columns, depth]: the lines, resized in width."""
    left, right = (_float(tf.gather(lines, side, axis=1)) for side in columns[:2])
    return left + (right - left) * columns.fraction[:, tf.newaxis]


_Neighbour = tuple[tf.Tensor, tf.Tensor]
"""A neighbour of each output position: its place, int32, and its weight."""


def _cubic_axis(length: tf.Tensor, wanted: tf.Tensor, part: Span) -> list[_Neighbour]:
    """Return four neighbours; those outside the image weigh nothing."""
    position, below = _positions(length, wanted, part)
    step = tf.cast(tf.round((position - below) * float(CUBIC_STEPS)), tf.int32)
    near, far = (tf.constant(weights) for weights in cubic_weights())
    tables = ((far, step), (near, step), (near, CUBIC_STEPS - step), (far, CUBIC_STEPS - step))
    places = [tf.cast(below, tf.int32) + offset for offset in range(-1, 3)]
    inside = [tf.clip_by_value(place, 0, length - 1) for place in places]
    weights = [
        tf.where(tf.equal(place, kept), tf.gather(table, at), 0.0)
        for (table, at), place, kept in zip(tables, places, inside, strict=True)
    ]
    scale = at_run_time(1.0, length) / _total(weights)
    return [(place, weight * scale) for place, weight in zip(inside, weights, strict=True)]


def _bicubic(image: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    rows, columns = (_cubic_axis(*axis) for axis in _axes(image, geometry))
    lines = [(tf.gather(image, places), down[:, tf.newaxis, tf.newaxis]) for places, down in rows]
    sums = [
        _total([_float(tf.gather(line, places, axis=1)) * down for line, down in lines])
        * across[:, tf.newaxis]
        for places, across in columns
    ]
    return _total(sums)


def _total(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the sum, added in this order: the optimizer would reorder a chain of `+`."""
    return tf.cumsum(tf.stack(parts))[-1]


def _float(number: Any) -> tf.Tensor:
    return tf.cast(number, tf.float32)
