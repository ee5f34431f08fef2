"""Resize as Pillow's `Image.resize` does, bit for bit, in pieces that a deadline can end.

Pillow makes every row shorter first, then every column, and rounds to uint8 in between. So the rows
can be resized some at a time, and only the columns that the model gets go on: no second copy of the
photo is made, and the result is the same.

Pillow up to 12 always does that. Pillow 13 begins with the columns where an image loses more than
twice as many rows as columns, which changes some pixels by 1 of 255, and by more where a bicubic
value is cut at 0 or 255. The answers of a model must not depend on that, so the order is fixed
here: each call to Pillow resizes in one direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from mlserve.deadline import Deadline
from mlserve.preprocessing import Geometry, Interpolation, Span

Array = np.ndarray[Any, Any]

_STRIP = 2**18
"""The pixels that are resized at a time."""
_FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}
_RGB = 3
_RESIZING = "resizing an image"


def pillow_resized(
    image: Array, geometry: Geometry, interpolation: Interpolation, deadline: Deadline | None
) -> Array:
    """Resize uint8[any height, any width, 3, 4 or 1], and cut the part that the model gets.

    A fourth channel is left out: returns uint8[rows, columns, 3 or 1]. Raises DeadlineExceeded.
    """
    if interpolation is Interpolation.NEAREST:
        rows = _nearest(image.shape[0], geometry.height, geometry.rows)
        columns = _nearest(image.shape[1], geometry.width, geometry.columns)
        nearest: Array = image[rows[:, np.newaxis], columns, :_RGB]
        return nearest
    chosen = _FILTERS[interpolation]
    narrow = _narrow(image, geometry, chosen, deadline)
    left, top, height = geometry.columns.length, geometry.rows.start, geometry.height
    found = narrow.resize((left, height), chosen).crop((0, top, left, top + geometry.rows.length))
    return np.asarray(found).reshape(geometry.rows.length, left, min(image.shape[2], _RGB))


def _narrow(
    image: Array, geometry: Geometry, chosen: Image.Resampling, deadline: Deadline | None
) -> Image.Image:
    """Return the image with its rows resized and cut, its columns as they are.

    Rows that the columns will not need are black.
    """
    columns = geometry.columns
    mode = "L" if image.shape[2] == 1 else "RGB"
    narrow = Image.new(mode, (columns.length, image.shape[0]))
    needed = _needed(image.shape[0], geometry.height, geometry.rows)
    for top, strip in strips(image, deadline, geometry.width, needed):
        rows = strip.resize((geometry.width, strip.height), chosen)
        end = columns.start + columns.length
        narrow.paste(rows.crop((columns.start, 0, end, strip.height)), (0, top))
    return narrow


def strips(
    image: Array, deadline: Deadline | None, becomes: int = 0, rows: range | None = None
) -> Iterator[tuple[int, Image.Image]]:
    """Yield some rows of the image at a time, after the number of the first. Raises as above.

    `becomes` is how many pixels wide the rows will be: a tall image of one column can grow a
    thousandfold. `rows` are all without it.
    """
    height, width = image.shape[:2]
    count = max(1, _STRIP // max(width, becomes))
    rows = range(height) if rows is None else rows
    for top in rows[::count]:
        if deadline is not None:
            deadline.require(_RESIZING)
        yield top, _pillow_image(image[top : min(top + count, rows.stop)])


def _needed(length: int, wanted: int, part: Span) -> range:
    """Return which positions of an axis have weight in that part of the resized one, and a few.

    Pillow's widest filter, bicubic, reaches two positions to each side, of the longer axis.
    """
    scale = length / wanted
    reach = 2 * max(1.0, scale) + 1
    first = math.floor((part.start + 0.5) * scale - reach)
    last = math.ceil((part.start + part.length - 0.5) * scale + reach)
    return range(max(0, first), min(length, last))


def _pillow_image(pixels: Array) -> Image.Image:
    """Return the pixels as Pillow has them; those with a fourth channel are not copied."""
    height, width, depth = pixels.shape
    if depth <= _RGB:
        return Image.fromarray(pixels if depth > 1 else pixels[:, :, 0])
    core: Any = Image.core  # type: ignore[attr-defined]
    mapped = core.map_buffer(pixels, (width, height), "raw", 0, ("RGB", 0, 1))
    return Image.new("RGB", (0, 0))._new(mapped)  # noqa: SLF001 - as frombuffer does


@lru_cache(maxsize=256)
def _nearest(length: int, wanted: int, part: Span) -> Array:
    """Return which positions of an axis Pillow takes for that part of the resized one."""
    numbers = Image.fromarray(np.arange(length, dtype=np.int32)[np.newaxis])
    chosen = np.asarray(numbers.resize((wanted, 1), Image.Resampling.NEAREST))[0]
    positions: Array = chosen[part.start : part.start + part.length].copy()
    return positions
