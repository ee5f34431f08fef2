"""Resize as Pillow's `Image.resize` does, bit for bit, with TensorFlow's operations.

Pillow (libImaging/Resample.c) computes the weights of each output position in double precision,
rounds them to 22 binary digits, and adds up whole numbers: first it makes every row shorter, then
every column, and rounds to uint8 each time. So do these functions, in the same order of operations
and of the axes as `mlserve.image_pipeline.pillow_resizing`. The weights are a sparse matrix of
int32, because `SparseTensorDenseMatMul` is exact, and reads only the pixels that count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlserve.preprocessing import Geometry, Interpolation, Span
from mlserve_tfserving.run_time import at_run_time
from mlserve_tfserving.strips import in_strips

_DIGITS = 32 - 8 - 2
"""Pillow's PRECISION_BITS: the binary digits of a weight."""
_STRIP = 2**18
"""The pixels that are turned at a time."""
_FAST_WIDTH = 31
"""The most columns that SparseTensorDenseMatMul multiplies in its quickest loop."""


def pillow_resized(image: tf.Tensor, geometry: Geometry, interpolation: Interpolation) -> tf.Tensor:
    """Resize uint8[any height, any width, depth], and cut the part that the model gets.

    The numbers of the geometry are ints or int32 scalars. Returns uint8[rows, columns, depth].
    Only what the cut part needs is computed.
    """
    shape = tf.unstack(tf.shape(image)[:2])
    size = tf.unstack(at_run_time([geometry.height, geometry.width], shape[0]))
    axes = zip(shape, size, (geometry.rows, geometry.columns), strict=True)
    if interpolation is Interpolation.NEAREST:
        rows, columns = (_nearest(*axis) for axis in axes)
        return tf.gather(tf.gather(image, rows), columns, axis=1)
    rows, columns = (_filter(*axis, interpolation) for axis in axes)
    image = image[rows.start : rows.end, columns.start : columns.end]
    return _down(_across(image, columns), rows)


def _nearest(length: tf.Tensor, wanted: tf.Tensor, part: Span) -> tf.Tensor:
    """Return which positions of an axis Pillow takes for that part of the resized one, int32."""
    step = _double(length) / _double(wanted)
    # Pillow adds the step up, with an error that grows; the centre of the first is half a step.
    steps = tf.concat([[step * 0.5], tf.fill([part.start + part.length - 1], step)], axis=0)
    return tf.cast(tf.cumsum(steps)[part.start :], tf.int32)


class _Filter(NamedTuple):
    """How a part of one axis is resized.

    It is made of the positions from `start` to `end` of the image; `matrix` is the int32 weights of
    each of these (the columns) in each output position (the rows), times 2**22.
    """

    start: tf.Tensor
    end: tf.Tensor
    matrix: tf.SparseTensor


def _filter(
    length: tf.Tensor, wanted: tf.Tensor, part: Span, interpolation: Interpolation
) -> _Filter:
    """Return the filter of that part of an axis: `precompute_coeffs` of Pillow."""
    scale = _double(length) / _double(wanted)
    stretch = tf.maximum(scale, 1.0)
    inverse = at_run_time(_double(1), length) / stretch
    reach = _REACH[interpolation] * stretch
    centres = (_double(part.start + tf.range(part.length)) + 0.5) * scale
    first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), length)
    places = first[:, tf.newaxis] + tf.range(tf.reduce_max(end - first))
    distances = (_double(places) - centres[:, tf.newaxis] + 0.5) * inverse
    is_inside = places < end[:, tf.newaxis]
    weights = tf.where(is_inside, _KERNELS[interpolation](distances), _double(0))
    # The sum in Pillow's order: `reduce_sum` has another, with other last bits.
    weights /= tf.cumsum(weights, axis=1)[:, -1:]
    weights *= float(1 << _DIGITS)
    weights = tf.cast(tf.where(weights < 0, weights - 0.5, weights + 0.5), tf.int32)
    start, stop = first[0], end[-1]
    columns = tf.minimum(places, stop - 1) - start
    return _Filter(start, stop, _sparse(columns, weights, stop - start))


def _sparse(columns: tf.Tensor, values: tf.Tensor, width: tf.Tensor) -> tf.SparseTensor:
    """Return the matrix that has these int32[rows, N] values in these columns, and zeros else."""
    rows = tf.broadcast_to(tf.range(tf.shape(values)[0])[:, tf.newaxis], tf.shape(values))
    places = tf.reshape(tf.stack([rows, columns], axis=-1), [-1, 2])
    shape = tf.stack([tf.shape(values)[0], width])
    return tf.SparseTensor(
        tf.cast(places, tf.int64), tf.reshape(values, [-1]), tf.cast(shape, tf.int64)
    )


def _triangle(distances: tf.Tensor) -> tf.Tensor:
    return tf.maximum(1.0 - tf.abs(distances), 0.0)


def _cubic(distances: tf.Tensor) -> tf.Tensor:
    a, x = -0.5, tf.abs(distances)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, _double(0)))  # noqa: PLR2004


_KERNELS = {Interpolation.BILINEAR: _triangle, Interpolation.BICUBIC: _cubic}
_REACH = {Interpolation.BILINEAR: 1.0, Interpolation.BICUBIC: 2.0}
"""How many pixels of the smaller of both images lie on each side of a position."""


def _across(image: tf.Tensor, columns: _Filter) -> tf.Tensor:
    """Resize each row of uint8[height, width, depth]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    depth = image.shape[2]

    def resized(start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        turned = tf.transpose(tf.reshape(image[start : start + count], [count, -1]))
        found = _down(tf.reshape(turned, [width, depth * count, 1]), columns)
        return tf.transpose(tf.reshape(found, [-1, count]))

    found = in_strips(resized, height, tf.maximum(_STRIP // width, 1))
    return tf.reshape(found, [height, -1, depth])


def _down(image: tf.Tensor, rows: _Filter) -> tf.Tensor:
    """Resize each column of uint8[height, width, depth]."""
    width, depth = tf.shape(image)[1], image.shape[2]

    def resized(start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        columns = tf.reshape(image[:, start : start + count], [-1, count * depth])
        found = tf.reshape(_multiplied(rows.matrix, columns), [-1, count, depth])
        return tf.reshape(tf.transpose(found, [1, 0, 2]), [count, -1])

    turned = tf.reshape(in_strips(resized, width, _FAST_WIDTH // depth), [width, -1, depth])
    return tf.transpose(turned, [1, 0, 2])


def _multiplied(matrix: tf.SparseTensor, pixels: tf.Tensor) -> tf.Tensor:
    """Return the weighted sums of uint8[length, N] pixels, rounded: uint8[outputs, N]."""
    sums = tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=matrix.indices,
        a_values=matrix.values,
        a_shape=matrix.dense_shape,
        b=tf.cast(pixels, tf.int32),
    )
    whole = tf.bitwise.right_shift(sums + (1 << (_DIGITS - 1)), _DIGITS)
    return tf.cast(tf.clip_by_value(whole, 0, 255), tf.uint8)


def _double(number: Any) -> tf.Tensor:
    return tf.cast(number, tf.float64)
