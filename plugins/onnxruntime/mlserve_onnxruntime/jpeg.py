"""Decodes JPEG as TensorFlow's `decode_jpeg(dct_method="INTEGER_ACCURATE")` does, bit for bit.

libjpeg-turbo gives the same bytes wherever it is built in: simplejpeg writes them straight into an
array and is the fastest, but refuses what libjpeg only warns of (a wrong bit in the middle), which
TensorFlow takes. Those files, and CMYK, are left to Pillow, which draws the line between damaged
and readable where TensorFlow does.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np  # noqa: TID253
import simplejpeg
from PIL import JpegImagePlugin

from mlserve.image_problems import Problem
from mlserve_onnxruntime.refusal import Refused, require_size

_MARKER, _FILL, _END = b"\xff", 0xFF, 0xD9
_WITHOUT_LENGTH = frozenset((*range(0xC0), *range(0xD0, 0xD9)))
"""Second bytes that begin no segment: an escaped byte, a reserved one, a restart, a start."""
_PLAIN = ("Gray", "RGB", "YCbCr")

Pixels = np.ndarray[Any, Any]


def decode_jpeg(data: bytes, max_pixels: int) -> Pixels:
    """uint8[height, width, 3]. Raises Refused."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a subsampling that it has no name for
        return _with_pillow(data, max_pixels)
    require_size(width, height, max_pixels)
    if colours not in _PLAIN:
        return _with_pillow(data, max_pixels)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    except (ValueError, KeyError):
        return _with_pillow(data, max_pixels)
    return pixels


def _with_pillow(data: bytes, max_pixels: int) -> Pixels:
    try:
        # Not Image.open, which would take other formats, and warn of large images.
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        require_size(*image.size, max_pixels)
        image.load()
        _require_end(data)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # whatever it raises, it cannot read this
        raise Refused(Problem.DAMAGED) from error
    if image.mode == "CMYK":
        return _rgb_of_cmyk(image)
    return np.asarray(image.convert("RGB"))


def _require_end(data: bytes) -> None:
    """Raises Refused when the file ends before its end marker begins.

    Pillow is content once it has all rows; TensorFlow reads on to the end marker.
    """
    at = data.find(_MARKER, 2)
    while 0 <= at < len(data) - 1 and data[at + 1] != _END:
        code = data[at + 1]
        if code == _FILL:
            at += 1
        elif code in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
        at = data.find(_MARKER, at)
    if at < 0:
        raise Refused(Problem.DAMAGED)


def _rgb_of_cmyk(image: JpegImagePlugin.JpegImageFile) -> Pixels:
    """TensorFlow's conversion: by Adobe's inverted values, or plain ones without Adobe's marker."""
    inks = np.asarray(image)  # Pillow has inverted them, as if they were Adobe's
    light = 255 - inks if "adobe" in image.info else inks
    product = light[:, :, :3].astype(np.uint16) * light[:, :, 3:]
    rgb: Pixels = (product // 255).astype(np.uint8)
    return rgb
