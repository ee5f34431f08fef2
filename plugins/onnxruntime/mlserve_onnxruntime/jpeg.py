"""Decodes JPEG as TensorFlow's `decode_jpeg(dct_method="INTEGER_ACCURATE")` does, bit for bit.

libjpeg-turbo gives the same bytes wherever it is built in: simplejpeg writes them straight into an
array and is the fastest, but refuses what libjpeg only warns of (a wrong bit in the middle), which
TensorFlow takes, and cannot be stopped. Those files, CMYK, and large ones of several scans go to
the decoder of Pillow, which reads a file as TensorFlow does: as far as it goes, without an end put
in for a missing one. A progressive file that lacks scans is refused, where TensorFlow takes it:
each version of libjpeg-turbo makes other pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg

from mlserve.deadline import Deadline
from mlserve.images import SCAN, ImageLimits, Problem, jpeg_cost
from mlserve_onnxruntime.codec import decoded, in_strips
from mlserve_onnxruntime.jpeg_segments import Frame, frame_of, has_adobe, lacks_scans, readable
from mlserve_onnxruntime.refusal import Refused, require_within

_CMYK = 4
_SHORT_WORK = 2**26
"""Bytes of work that are done at once, a quarter of a second; beyond, the deadline is looked at."""
_PIECE = 2**16

Pixels = np.ndarray[Any, Any]


def decode_jpeg(data: bytes, limits: ImageLimits, deadline: Deadline | None = None) -> Pixels:
    """uint8[height, width, 3]. Raises Refused and DeadlineExceeded."""
    frame = frame_of(data)
    if frame is None or not frame.width or not frame.height:
        raise Refused(Problem.DAMAGED)
    cost = jpeg_cost(data, frame.width, frame.height, frame.components)
    require_within(cost, limits)
    if frame.is_progressive and lacks_scans(data):
        raise Refused(Problem.DAMAGED)
    is_long = not frame.is_read_at_once and cost.work > _SHORT_WORK
    if frame.components != _CMYK and not is_long:
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
        except (ValueError, KeyError):  # KeyError: a subsampling that it has no name for
            return _with_pillow(data, frame, deadline)
        return pixels
    return _with_pillow(data, frame, deadline)


def _with_pillow(data: bytes, frame: Frame, deadline: Deadline | None) -> Pixels:
    whole = readable(data) if frame.is_read_at_once else data
    if whole is None:
        raise Refused(Problem.DAMAGED)
    is_cmyk = frame.components == _CMYK
    mode = "CMYK" if is_cmyk else "RGB"
    size = (frame.width, frame.height)
    # Rows that come out at once are all there before the end of the file has been read: what is
    # wrong with that end is only found while the codec has it.
    pieces = [whole] if frame.is_read_at_once else _pieces(whole)
    image = decoded("jpeg", mode, size, (mode, ""), pieces, deadline)
    if not is_cmyk:
        return in_strips(image, np.asarray, deadline)
    is_light = has_adobe(data, frame)
    return in_strips(
        image, lambda strip: _rgb_of_cmyk(np.asarray(strip), is_light=is_light), deadline
    )


def _pieces(data: bytes) -> Iterator[memoryview]:
    """The file, cut where a scan begins, and where a piece gets long.

    A JPEG of several scans is read to its end before its rows come out.
    """
    view, at = memoryview(data), 0
    while at < len(data):
        scan = data.find(SCAN, at + 1, at + _PIECE)
        end = min(len(data), at + _PIECE) if scan < 0 else scan
        yield view[at:end]
        at = end


def _rgb_of_cmyk(stored: Pixels, *, is_light: bool) -> Pixels:
    """TensorFlow's conversion, which rounds down; Adobe stores light in place of ink."""
    light = stored if is_light else 255 - stored
    product = light[:, :, :3].astype(np.uint16) * light[:, :, 3:]
    rgb: Pixels = (product // 255).astype(np.uint8)
    return rgb
