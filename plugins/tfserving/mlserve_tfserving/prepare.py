"""A decoded image to the model's input, as TensorFlow operations: `mlserve.preprocessing`.

It mirrors `mlserve.image_pipeline.prepare`, operation by operation, so that both give equal bits.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mlserve.image_pipeline.arithmetic import table
from mlserve.pipeline import ImagePipeline
from mlserve.preprocessing import (
    VERSION_1,
    Arithmetic,
    Channels,
    CropOffset,
    Geometry,
    ResizeMode,
    Span,
)
from mlserve_tfserving.float_resizing import float_resized
from mlserve_tfserving.pillow_resizing import pillow_resized
from mlserve_tfserving.run_time import at_run_time
from mlserve_tfserving.strips import in_strips

_STRIP = 2**16
"""The pixels that are turned to grey at a time."""


def geometry_in_graph(image: tf.Tensor, pipeline: ImagePipeline) -> Geometry:
    """Return where uint8[any height, any width, 3] lies in the model's input.

    The numbers are ints where they do not depend on the image, else int32 scalars.
    """
    steps = pipeline.preprocessing
    if steps.resize.mode is ResizeMode.DIRECT:
        return steps.geometry(pipeline.size, pipeline.size)
    height, width = _resized_size(tf.unstack(tf.shape(image)[:2]), pipeline)
    rows = _span(height, pipeline.height, steps.crop_offset)
    return Geometry(height, width, rows, _span(width, pipeline.width, steps.crop_offset))


def _resized_size(shape: list[tf.Tensor], pipeline: ImagePipeline) -> list[tf.Tensor]:
    """Return the height and width that an image of that shape is resized to, int32.

    As `resized_size` of mlserve.preprocessing, for the two modes that keep the ratio.
    """
    resize = pipeline.preprocessing.resize
    wanted = resize.size or pipeline.size
    sides = [tf.cast(side, tf.float64) for side in shape]
    if resize.mode is ResizeMode.SHORTEST_EDGE:
        edge = min(wanted)
        # A longer one is refused anyway.
        longer = tf.minimum(edge * tf.maximum(*sides) / tf.minimum(*sides), tf.int32.max)
        longer = tf.cast(longer, tf.int32)
        is_wide = shape[0] <= shape[1]
        return [tf.where(is_wide, edge, longer), tf.where(is_wide, longer, edge)]
    ratio = tf.minimum(wanted[0] / sides[0], wanted[1] / sides[1])
    return [tf.maximum(tf.cast(tf.round(side * ratio), tf.int32), 1) for side in sides]


def _span(length: tf.Tensor, wanted: int, offset: CropOffset) -> Span:
    """Return which part of a resized axis fills the `wanted` positions, as int32 scalars."""
    spare, lacking = tf.maximum(length - wanted, 0), tf.maximum(wanted - length, 0)
    start, before = spare // 2, lacking // 2
    if offset is CropOffset.ROUND:
        start = tf.cast(tf.round(tf.cast(spare, tf.float64) / 2), tf.int32)
    if offset is CropOffset.FLOOR_PAD_MORE:
        before = lacking - before
    return Span(start, tf.minimum(length, wanted), before)


def prepared(image: tf.Tensor, geometry: Geometry, pipeline: ImagePipeline) -> tf.Tensor:
    """Return the model's input, float32[height, width, depth], of uint8[any height, any width, 3].

    `geometry` is that of `geometry_in_graph`.
    """
    steps = pipeline.preprocessing
    if steps.channels is Channels.GREY:
        image = grey(image)
    resize = pillow_resized if steps.resize.is_uint8 else float_resized
    pixels = resize(image, geometry, steps.resize.interpolation)
    if steps.channels is Channels.BGR:
        pixels = tf.reverse(pixels, [2])
    if pixels.shape[2] != steps.depth:
        pixels = tf.repeat(pixels, steps.depth, axis=2)
    pixels = _padded(pixels, geometry, pipeline)
    if steps.resize.is_uint8:
        return _looked_up(pixels, pipeline)
    return _normalized(pixels, tf.shape(image)[0], pipeline)


def grey(image: tf.Tensor) -> tf.Tensor:
    """Return uint8[height, width, 1] of uint8[height, width, 3], as Pillow's `convert("L")`."""
    height, width = tf.unstack(tf.shape(image)[:2])

    def greyed(start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(image[start : start + count], tf.int32)
        red, green, blue = tf.unstack(rows, axis=2)
        total = 19595 * red + 38470 * green + 7471 * blue + 0x8000
        return tf.cast(tf.bitwise.right_shift(total, 16), tf.uint8)

    return in_strips(greyed, height, tf.maximum(_STRIP // width, 1))[:, :, tf.newaxis]


def _padded(pixels: tf.Tensor, geometry: Geometry, pipeline: ImagePipeline) -> tf.Tensor:
    """Return the pixels with the padding around them: [height, width, depth] of the model."""
    steps = pipeline.preprocessing
    parts = geometry.rows, geometry.columns
    around = [
        [part.before, size - part.before - part.length]
        for part, size in zip(parts, pipeline.size, strict=True)
    ]
    # A direct resize has only numbers here; else they may be tensors, which are not compared.
    if steps.resize.mode is not ResizeMode.DIRECT or any(map(any, around)):
        around.append([0, 0])
        is_image = tf.pad(tf.ones([*(part.length for part in parts), 1], tf.bool), around)
        colour = tf.constant(steps.padding, pixels.dtype)
        pixels = tf.where(is_image, tf.pad(pixels, around), colour)
    return tf.ensure_shape(pixels, [*pipeline.size, steps.depth])


def _looked_up(pixels: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """Return float32[height, width, depth]: each pixel's number from the table of 256."""
    numbers = table(pipeline)
    starts = 256 * np.arange(numbers.shape[1])
    places = tf.cast(pixels, tf.int32) + tf.constant(starts, tf.int32)
    return tf.gather(tf.constant(numbers.T.reshape(-1)), places)


def _normalized(pixels: tf.Tensor, length: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """Return float32[height, width, depth], as `normalized` of the Python pipeline."""
    steps = pipeline.preprocessing
    if steps == VERSION_1:
        return pixels * pipeline.scale + pipeline.offset
    scale, offset = pipeline.scale, np.float32(pipeline.offset)
    mean, std = (np.array(numbers, np.float32) for numbers in (steps.mean, steps.std))
    match steps.arithmetic:
        case Arithmetic.MULTIPLY:
            pixels *= at_run_time(np.float32(scale), length)
        case Arithmetic.DIVIDE:
            pixels /= at_run_time(np.float32(1 / scale), length)
        case Arithmetic.MULTIPLY_DOUBLE:
            pixels = tf.cast(tf.cast(pixels, tf.float64) * scale, tf.float32)
        case Arithmetic.FUSED:
            mean, std = mean * np.float32(1 / scale), std * np.float32(1 / scale)
    if steps.arithmetic is not Arithmetic.FUSED:
        pixels += at_run_time(offset, length)
    if mean.size:
        pixels -= at_run_time(mean, length)
    if std.size:
        pixels /= at_run_time(std, length)
    return pixels
