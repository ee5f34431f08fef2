"""Turn the image of a request into pixels: base64, header checks, decoding, EXIF.

Everything that can be known before the decoder runs is checked first, in the order and the words of
`mlserve.images`. EXIF data are a small TIFF file (Exif 2.32, section 4.6.2); as in image viewers,
unreadable data are ignored.
"""

from __future__ import annotations

import base64
import re
import string
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlserve.deadline import Deadline
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.jpeg import JpegDecoder, accurate, decode_jpeg, segments
from mlserve.image_pipeline.png import decode_png
from mlserve.images import BASE64_OF_IMAGE, JPEG_MAGIC, PNG_MAGIC, ImageLimits, Problem
from mlserve.pipeline import Exif

_APP1, _SOS, _EXIF = 0xE1, 0xDA, b"Exif\0\0"
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION, _SHORT = 0x0112, 3
_ENTRY_BYTES = 12
_CHUNK_FRAME = 12

Pixels = np.ndarray[Any, Any]

_TURNS: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""The transformations that bring an image upright, by orientation; 1 is upright already."""


def upright(pixels: Pixels, file: bytes) -> Pixels:
    """Turn and mirror the pixels of that JPEG or PNG file as its EXIF data say."""
    turn = _TURNS.get(_orientation(_exif_of(file)))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _exif_of(file: bytes) -> bytes:
    return _exif_of_jpeg(file) if file.startswith(JPEG_MAGIC) else _exif_of_png(file)


def _exif_of_jpeg(jpeg: bytes) -> bytes:
    for segment in segments(jpeg):
        if segment.marker == _SOS:
            break
        content = jpeg[segment.start + 2 : segment.end]
        if segment.marker == _APP1 and content.startswith(_EXIF):
            return content.removeprefix(_EXIF)
    return b""


def _exif_of_png(png: bytes) -> bytes:
    at = len(PNG_MAGIC)
    while at + _CHUNK_FRAME <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"eXIf":
            return png[at + 8 : at + 8 + length].removeprefix(_EXIF)
        at += _CHUNK_FRAME + length
    return b""


def _orientation(tiff: bytes) -> int:
    """Return the orientation in the first directory, 1 to 8; 1 if it cannot be read."""
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for number in range(count):
            entry = directory + 2 + number * _ENTRY_BYTES
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return int(value) if kind == _SHORT else 1
    except struct.error:  # truncated
        return 1
    return 1


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
    decoder: JpegDecoder = accurate,
) -> np.ndarray[Any, Any]:
    """Decode an image file or its base64 text to uint8[height, width, 3], in its own size, RGB.

    Raises Refused for anything but a whole JPEG or PNG within the limits, and DeadlineExceeded
    while it decodes. A JPEG of one scan cannot be interrupted: 100 megapixels take a second.
    """
    data = value if _is_image(value) else _from_base64(value)
    if data.startswith(JPEG_MAGIC):
        pixels = decode_jpeg(data, limits, deadline, decoder)
    else:
        pixels = decode_png(data, limits, deadline)
    return upright(pixels, data) if exif is Exif.APPLY else pixels


def _is_image(data: bytes) -> bool:
    return data.startswith((JPEG_MAGIC, PNG_MAGIC))


def _from_base64(value: bytes) -> bytes:
    """Decode the base64 text of an image file: either alphabet, with or without padding."""
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
