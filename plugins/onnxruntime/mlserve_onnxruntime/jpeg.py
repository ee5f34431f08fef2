"""Decodes JPEG as TensorFlow's `decode_jpeg(dct_method="INTEGER_ACCURATE")` does, bit for bit.

libjpeg-turbo gives the same bytes wherever it is built in: simplejpeg writes them straight into an
array and is the fastest, but refuses what libjpeg only warns of (a wrong bit in the middle), which
TensorFlow takes. Those files, and CMYK, go to the decoder of Pillow, which reads a file as
TensorFlow does: as far as it goes, without an end put in for a missing one. A progressive file that
lacks scans is refused, where TensorFlow takes it: each version of libjpeg-turbo makes other pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253
import simplejpeg
from PIL import Image

from mlserve.image_problems import Problem
from mlserve_onnxruntime.jpeg_segments import Frame, frame_of, has_adobe, lacks_scans, readable
from mlserve_onnxruntime.refusal import Refused, require_size

_CMYK = 4

Pixels = np.ndarray[Any, Any]


def decode_jpeg(data: bytes, max_pixels: int) -> Pixels:
    """uint8[height, width, 3]. Raises Refused."""
    frame = frame_of(data)
    if frame is None or not frame.width or not frame.height:
        raise Refused(Problem.DAMAGED)
    require_size(frame.width, frame.height, max_pixels)
    if frame.is_progressive and lacks_scans(data):
        raise Refused(Problem.DAMAGED)
    if frame.components != _CMYK:
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
        except (ValueError, KeyError):  # KeyError: a subsampling that it has no name for
            return _with_pillow(data, frame)
        return pixels
    return _with_pillow(data, frame)


def _with_pillow(data: bytes, frame: Frame) -> Pixels:
    whole = readable(data) if frame.is_read_at_once else data
    if whole is None:
        raise Refused(Problem.DAMAGED)
    mode = "CMYK" if frame.components == _CMYK else "RGB"
    try:
        # The codec alone: Pillow's own reader of the header refuses what libjpeg takes.
        image = Image.frombytes(mode, (frame.width, frame.height), whole, "jpeg", mode, "")
    except ValueError as error:
        raise Refused(Problem.DAMAGED) from error
    pixels = np.asarray(image)
    return _rgb_of_cmyk(pixels, is_light=has_adobe(data, frame)) if mode == "CMYK" else pixels


def _rgb_of_cmyk(stored: Pixels, *, is_light: bool) -> Pixels:
    """TensorFlow's conversion, which rounds down; Adobe stores light in place of ink."""
    light = stored if is_light else 255 - stored
    product = light[:, :, :3].astype(np.uint16) * light[:, :, 3:]
    rgb: Pixels = (product // 255).astype(np.uint8)
    return rgb
