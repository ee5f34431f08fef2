"""Makes image files, with Pillow and by hand: plain ones, odd ones, and ones that lie."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, Any]
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_AFTER_PNG_HEADER = 33
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour type in a PNG header, by the number of samples a pixel."""
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
_LAST_PASS = (1, 0, 2, 1)
"""The passes of an interlaced PNG: first row, first column, row step, column step."""
_ORIENTATION = 0x0112
_TRANSFORM_AT = 15
"""Where the Adobe segment says how its colours are coded."""
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The file of that image in that format of Pillow's."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def plain(colour: str, kind: str = "JPEG", size: tuple[int, int] = (20, 12)) -> bytes:
    """The file of an image of one colour; `size` is its width and height."""
    return saved(Image.new("RGB", size, colour), kind)


def noise(width: int, height: int, bands: int = 3, seed: int = 0) -> Image.Image:
    """Smooth noise, grey, RGB or CMYK, so that JPEG keeps it roughly as it is."""
    numbers = np.random.default_rng(seed).integers(0, 256, (7, 7, bands), dtype=np.uint8)
    image = Image.frombytes(_MODES[bands], (7, 7), numbers.tobytes())
    return image.resize((width, height), Image.Resampling.BILINEAR)


def turned(orientation: int) -> Image.Exif:
    """EXIF data that says how the camera was held."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def ycck(cmyk: bytes) -> bytes:
    """The CMYK JPEG with an Adobe marker that says YCCK."""
    transform = cmyk.index(b"\xff\xee") + _TRANSFORM_AT
    return cmyk[:transform] + b"\x02" + cmyk[transform + 1 :]


def with_precision(jpeg: bytes, bits: int) -> bytes:
    """The JPEG whose frame header claims samples of that many bits."""
    position = jpeg.index(b"\xff\xc0") + 4
    return jpeg[:position] + bytes([bits]) + jpeg[position + 1 :]


def altered(data: bytes, position: int, length: int = 8) -> bytes:
    """The file with `length` bytes changed, from `position` on."""
    changed = bytes(byte ^ 0x55 for byte in data[position : position + length])
    return data[:position] + changed + data[position + length :]


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims that size."""
    data = bytearray(plain("red"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without its first segment of that marker."""
    start = jpeg.index(bytes([0xFF, marker]))
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


def with_jpeg_marker(jpeg: bytes, old: int, new: int) -> bytes:
    """The JPEG with its first segment of the marker `old` marked `new`."""
    return jpeg.replace(bytes([0xFF, old]), bytes([0xFF, new]), 1)


def with_png_chunk(png: bytes, kind: bytes, content: bytes, *, is_damaged: bool = False) -> bytes:
    """The PNG with one chunk more, behind its header; a damaged one has a wrong checksum."""
    chunk = png_chunk(kind, content)
    if is_damaged:
        chunk = altered(chunk, len(chunk) - 1, 1)
    return png[:_AFTER_PNG_HEADER] + chunk + png[_AFTER_PNG_HEADER:]


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of next to no data whose header claims that size."""
    return _png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"\0" * 10)


def png_of(pixels: Pixels, *, is_interlaced: bool = False) -> bytes:
    """A PNG of uint8 or uint16[height, width, samples].

    Pillow writes neither interlaced files nor 16-bit colour.
    """
    height, width, samples = pixels.shape
    bits = pixels.dtype.itemsize * 8
    header = struct.pack(
        ">IIBBBBB", width, height, bits, _PNG_COLOUR_TYPES[samples], 0, 0, is_interlaced
    )
    passes = (*_ADAM7, _LAST_PASS) if is_interlaced else ((0, 0, 1, 1),)
    rows = (
        row
        for first_row, first_column, row_step, column_step in passes
        for row in pixels[first_row::row_step, first_column::column_step]
        if row.size
    )
    big_endian = pixels.dtype.newbyteorder(">")
    return _png(header, b"".join(b"\0" + row.astype(big_endian).tobytes() for row in rows))


def _png(header: bytes, data: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return _PNG_MAGIC + b"".join(png_chunk(kind, content) for kind, content in chunks)


def png_short_of_rows() -> bytes:
    """A PNG of 64 rows of which 16 are there; all its chunks are whole."""
    header = struct.pack(">IIBBBBB", 20, 64, 8, 2, 0, 0, 0)
    return _png(header, (b"\0" + bytes(60)) * 16)


def png_with_chunk_in_data() -> bytes:
    """A PNG with a text between the two halves of its data."""
    png = png_of(np.zeros((9, 9, 3), np.uint8))
    start, end = png.index(b"IDAT") - 4, png.index(b"IEND") - 4
    data = png[start + 8 : end - 4]
    parts = ((b"IDAT", data[:9]), (b"tEXt", b"a\0b"), (b"IDAT", data[9:]))
    return png[:start] + b"".join(png_chunk(*part) for part in parts) + png[end:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and its checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
