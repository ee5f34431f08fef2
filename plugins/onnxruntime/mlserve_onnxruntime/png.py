"""Decodes PNG as TensorFlow does: 16 bits cut to the upper 8, alpha dropped, grey repeated."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np  # noqa: TID253
from PIL import PngImagePlugin

from mlserve.image_problems import PNG_HEADER_BYTES, PNG_MAGIC, Problem
from mlserve_onnxruntime.refusal import Refused, require_size

_SIZE_AT = 16
_CHUNK_FRAME = 12
"""Length (4), type (4), then the data and its checksum (4)."""
_KINDS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""What the image itself is made of; the type of any such chunk begins with a capital."""

Pixels = np.ndarray[Any, Any]


def decode_png(data: bytes, max_pixels: int) -> Pixels:
    """uint8[height, width, 3]. Raises Refused."""
    width, height = 0, 0
    if len(data) >= PNG_HEADER_BYTES:
        width, height = struct.unpack_from(">ii", data, _SIZE_AT)
    require_size(width, height, max_pixels)
    data = _image_itself(data)
    try:
        # Not Image.open, which would take other formats, and warn of large images.
        image = PngImagePlugin.PngImageFile(io.BytesIO(data))
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # whatever it raises, it cannot read this
        raise Refused(Problem.DAMAGED) from error
    if image.mode.startswith("I"):  # 16-bit grey
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _image_itself(data: bytes) -> bytes:
    """The file without what is beside the image, such as texts, which may be damaged as it likes.

    Raises Refused for a file cut short or altered, which Pillow does not always see.
    """
    parts, at, kind = [PNG_MAGIC], len(PNG_MAGIC), b""
    while kind != b"IEND":
        if at + _CHUNK_FRAME > len(data):
            raise Refused(Problem.DAMAGED)
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + _CHUNK_FRAME + length
        if end > len(data):
            raise Refused(Problem.DAMAGED)
        if kind[:1].isupper():
            is_in_place = kind in _KINDS and (kind == b"IHDR") == (len(parts) == 1)
            if not (is_in_place and _has_its_checksum(data, at, end)):
                raise Refused(Problem.DAMAGED)
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _has_its_checksum(data: bytes, start: int, end: int) -> bool:
    (stated,) = struct.unpack_from(">I", data, end - 4)
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int(stated)
