"""The first image that a model is asked about: made here, as core has no image library."""

from __future__ import annotations

import struct
import zlib

_SIZE = 8


def tiny_png() -> bytes:
    """An RGB PNG of 8x8 pixels, a gradient: the smallest real request to an image classifier.

    An image of one colour would be 0 / 0 to a model that divides by the deviation of the pixels.
    """
    steps = range(0, 256, 256 // _SIZE)
    rows = b"".join(b"\0" + b"".join(bytes((x, y, 255 - x)) for x in steps) for y in steps)
    header = struct.pack(">IIBBBBB", _SIZE, _SIZE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum
