"""Pillow's codecs, fed in pieces: the deadline is looked at between them, and no copy is whole.

The codecs alone: Pillow's own readers of headers refuse files that libjpeg and libpng take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mlserve.deadline import Deadline
from mlserve.images import ImageCost, ImageLimits, Problem


class Refused(Exception):
    """An image that is not taken; `text` says why in the words of `mlserve.images`."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(problem.text + detail)
        self.text = problem.text + detail


def require_within(cost: ImageCost, limits: ImageLimits) -> None:
    """Raises Refused for a header without a valid size, and for an image over one of the limits."""
    if cost.width <= 0 or cost.height <= 0:
        raise Refused(Problem.NO_SIZE)
    excess = cost.excess(limits)
    if excess is not None:
        raise Refused(excess.problem, excess.detail)


_DECODING = "decoding an image"
_STRIP = 2**20
"""The pixels that are converted at a time."""

Pixels = np.ndarray[Any, Any]


def decoded(
    codec: str,
    mode: str,
    size: tuple[int, int],
    arguments: Sequence[object],
    pieces: Iterable[bytes | bytearray | memoryview],
    deadline: Deadline | None,
) -> Image.Image:
    """The image that the codec makes of the pieces; what it has not used of one, it gets again.

    Raises Refused when it fails or wants more, and DeadlineExceeded.
    """
    image = Image.new(mode, size)
    decoder = Image._getdecoder(mode, codec, tuple(arguments))  # noqa: SLF001 - as frombytes does
    decoder.setimage(image.im, (0, 0, *size))
    rest = b""
    for piece in pieces:
        require_time(deadline)
        given = rest + piece if rest else bytes(piece)
        used, fault = decoder.decode(given)
        if used < 0:
            if fault:
                raise Refused(Problem.DAMAGED)
            return image
        rest = given[used:]
    raise Refused(Problem.DAMAGED)


def in_strips(
    image: Image.Image, convert: Callable[[Image.Image], Pixels], deadline: Deadline | None
) -> Pixels:
    """uint8[height, width, 3]: the image converted, some rows at a time."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        require_time(deadline)
        bottom = min(top + rows, height)
        pixels[top:bottom] = convert(image.crop((0, top, width, bottom)))
    return pixels


def require_time(deadline: Deadline | None) -> None:
    """Raises DeadlineExceeded when the deadline has passed."""
    if deadline is not None:
        deadline.require(_DECODING)
