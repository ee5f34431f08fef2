"""Drive Pillow's codecs in pieces: the deadline is checked in between, and nothing is copied whole.

Only the codecs are used: Pillow's own header readers refuse files that libjpeg and libpng accept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mlserve.deadline import Deadline
from mlserve.images import ImageCost, ImageLimits, Problem


class Refused(Exception):
    """A refused image; `text` gives the reason in the words of `mlserve.images`."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(problem.text + detail)
        self.text = problem.text + detail


def require_within(cost: ImageCost, limits: ImageLimits) -> None:
    """Raise Refused for a header without a valid size, or an image over a limit."""
    if cost.width <= 0 or cost.height <= 0:
        raise Refused(Problem.NO_SIZE)
    excess = cost.excess(limits)
    if excess is not None:
        raise Refused(excess.problem, excess.detail)


_DECODING = "decoding an image"
_STRIP = 2**20
"""The pixels converted at a time."""

Pixels = np.ndarray[Any, Any]


def decoded(
    codec: str,
    mode: str,
    size: tuple[int, int],
    arguments: Sequence[object],
    pieces: Iterable[bytes | bytearray | memoryview],
    deadline: Deadline | None,
) -> Image.Image:
    """Decode the pieces; a piece not fully consumed is passed again from where the codec stopped.

    Raises Refused when the codec fails or needs more data, and DeadlineExceeded.
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
    """Convert the image to uint8[height, width, 3], some rows at a time."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        require_time(deadline)
        bottom = min(top + rows, height)
        pixels[top:bottom] = convert(image.crop((0, top, width, bottom)))
    return pixels


def require_time(deadline: Deadline | None) -> None:
    """Raise DeadlineExceeded if the deadline has passed."""
    if deadline is not None:
        deadline.require(_DECODING)
