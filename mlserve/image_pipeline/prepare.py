"""A decoded image to the model's input: channels, resize, crop or pad, arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.deadline import Deadline
from mlserve.image_pipeline.arithmetic import normalized, table
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.float_resizing import float_resized
from mlserve.image_pipeline.pillow_resizing import pillow_resized, strips
from mlserve.images import Problem
from mlserve.pipeline import ImagePipeline
from mlserve.preprocessing import Channels, Geometry, excess_of_size

Array = np.ndarray[Any, Any]


def prepare(image: Array, pipeline: ImagePipeline, deadline: Deadline | None, into: Array) -> None:
    """Write the model's input, float32[height, width, depth], of uint8[any height, any width, 3].

    Where it is resized as whole pixels, the image may have a fourth channel, which means nothing.

    Raises Refused for an image that would become too large, and DeadlineExceeded.
    """
    steps = pipeline.preprocessing
    geometry = steps.geometry((image.shape[0], image.shape[1]), pipeline.size)
    excess = excess_of_size(geometry, image.shape, pipeline.max_pixels)
    if excess is not None:
        raise Refused(Problem.TOO_LARGE, excess)
    place = into
    if (geometry.rows.length, geometry.columns.length) != pipeline.size:
        into[:] = _numbers(np.array([[steps.padding]], np.uint8), pipeline)
        place = _place(into, geometry)
    pixels = grey(image, deadline) if steps.channels is Channels.GREY else image
    if steps.resize.is_uint8:
        resized = pillow_resized(pixels, geometry, steps.resize.interpolation, deadline)
    else:
        resized = float_resized(pixels, geometry, steps.resize.interpolation)
    if steps.channels is Channels.BGR:
        resized = resized[:, :, ::-1]
    if resized.shape[2] != steps.depth:
        resized = np.repeat(resized, steps.depth, axis=2)
    place[:] = _numbers(resized, pipeline)


def grey(image: Array, deadline: Deadline | None) -> Array:
    """Return uint8[height, width, 1] of RGB, as Pillow's `convert("L")`."""
    result = np.empty((*image.shape[:2], 1), np.uint8)
    for top, strip in strips(image, deadline):
        result[top : top + strip.height, :, 0] = np.asarray(strip.convert("L"))
    return result


def _place(into: Array, geometry: Geometry) -> Array:
    """Return the part of the input that shows the image, not padding."""
    rows, columns = geometry.rows, geometry.columns
    return into[
        rows.before : rows.before + rows.length, columns.before : columns.before + columns.length
    ]


def _numbers(pixels: Array, pipeline: ImagePipeline) -> Array:
    """Return the model's numbers, float32, for uint8 or float32[height, width, depth] pixels."""
    if pixels.dtype != np.uint8:
        return normalized(pixels, pipeline)
    numbers = table(pipeline)
    result = np.empty(pixels.shape, np.float32)
    for channel in range(pixels.shape[2]):
        result[:, :, channel] = numbers[:, channel].take(pixels[:, :, channel])
    return result
