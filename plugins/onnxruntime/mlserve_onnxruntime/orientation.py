"""How a camera was held: read from the EXIF data of a JPEG or PNG, applied to decoded pixels.

EXIF data are a small TIFF file (Exif 2.32, section 4.6.2). What cannot be read turns nothing, as a
viewer does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlserve.images import JPEG_MAGIC, PNG_MAGIC
from mlserve_onnxruntime.jpeg_segments import segments

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
"""What brings an image upright, by its orientation; 1 is upright already."""


def upright(pixels: Pixels, file: bytes) -> Pixels:
    """The pixels of that JPEG or PNG file, turned and mirrored as its EXIF data say."""
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
    """The orientation in the first directory, 1 to 8; 1 where there is none that can be read."""
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
    except struct.error:  # cut short
        return 1
    return 1
