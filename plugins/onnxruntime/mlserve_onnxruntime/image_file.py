"""From what a request sends as an image to its pixels: base64, checks of the header, decoding.

Everything that can be told about an image before its decoder runs is checked first, in the order
and the words of `mlserve.images`.
"""

from __future__ import annotations

import base64
import re
import string
from typing import Any

import numpy as np

from mlserve.deadline import Deadline
from mlserve.images import BASE64_OF_IMAGE, JPEG_MAGIC, PNG_MAGIC, ImageLimits, Problem
from mlserve.pipeline import Exif
from mlserve_onnxruntime.jpeg import decode_jpeg
from mlserve_onnxruntime.orientation import upright
from mlserve_onnxruntime.png import decode_png
from mlserve_onnxruntime.refusal import Refused

_WHITE_SPACE = b" \t\r\n\f\v"
_ALPHABET = (string.ascii_letters + string.digits + "+/-_").encode()
_PADDING = re.compile(rb"={1,2}\Z")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_MEANT_AS_BASE64 = re.compile(BASE64_OF_IMAGE.encode())


def decoded_image(
    value: bytes,
    limits: ImageLimits,
    exif: Exif = Exif.IGNORE,
    deadline: Deadline | None = None,
) -> np.ndarray[Any, Any]:
    """uint8[height, width, 3] of an image file or its base64 text, in its own size, RGB.

    Raises Refused for anything but a whole JPEG or PNG within the limits, and DeadlineExceeded
    while it decodes; a JPEG of one scan is decoded to its end, a second for 100 megapixels.
    """
    data = value if _is_image(value) else _from_base64(value)
    decode = decode_jpeg if data.startswith(JPEG_MAGIC) else decode_png
    pixels = decode(data, limits, deadline)
    return upright(pixels, data) if exif is Exif.APPLY else pixels


def _is_image(data: bytes) -> bool:
    return data.startswith((JPEG_MAGIC, PNG_MAGIC))


def _from_base64(value: bytes) -> bytes:
    """The image file that the text stands for: either alphabet, with or without padding."""
    if not value:
        raise Refused(Problem.EMPTY)
    text = value.translate(None, _WHITE_SPACE)
    body = _PADDING.sub(b"", text)
    if not _is_base64(body, len(text) - len(body)):
        was_meant = _MEANT_AS_BASE64.fullmatch(value)
        raise Refused(Problem.BAD_BASE64 if was_meant else Problem.NOT_AN_IMAGE)
    data = base64.b64decode(body.translate(_TO_STANDARD) + b"=" * (-len(body) % 4))
    if not _is_image(data):
        raise Refused(Problem.NOT_AN_IMAGE)
    return data


def _is_base64(body: bytes, padding: int) -> bool:
    has_length = len(body) % 4 != 1 and (not padding or (len(body) + padding) % 4 == 0)
    return bool(body) and has_length and not body.translate(None, _ALPHABET)
