"""Decode PNG as TensorFlow does: 16 bits cut to the upper 8, alpha dropped, grey repeated.

The file is parsed here, chunk by chunk, by the rules of libpng, which TensorFlow uses; only the
rows are left to Pillow's codec. Pillow's own reader accepts files that libpng refuses, and leaves
missing rows black.

Chunks other than the image's may be damaged. Section numbers are those of the PNG specification,
third edition; behaviour beyond it is libpng's (pngrutil.c, pngread.c).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mlserve.deadline import Deadline
from mlserve.image_pipeline.codec import Refused, decoded, in_strips, require_within
from mlserve.images import (
    PNG_HEADER_BYTES,
    PNG_MAGIC,
    PNG_OF_APPLE,
    PNG_START,
    ImageLimits,
    Problem,
    png_cost,
)

_FRAME = 12
"""Length (4) and kind (4) before the content, checksum (4) after it."""
_HEADER_BYTES = 13
_LARGEST_SIDE = 1_000_000
"""libpng's own limit (PNG_USER_WIDTH_MAX, PNG_USER_HEIGHT_MAX)."""
_LARGEST_LENGTH = 2**31 - 1
_KIND = re.compile(rb"[A-Za-z]{4}")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The valid bits of a sample, by colour type (section 11.2.1)."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GREY, _PALETTE = frozenset((0, 4)), 3
_COLOURS = 3 * 256
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column, first row, column step and row step of each pass (section 8.1)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of IHDR; only the size has been checked."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlaced: int

    def is_valid(self) -> bool:
        """Return whether libpng accepts an image of this kind and size."""
        return (
            self.depth in _DEPTHS.get(self.colour, ())
            and max(self.width, self.height) <= _LARGEST_SIDE
            and (self.compression, self.filtering) == (0, 0)
            and self.interlaced in (0, 1)
        )

    def passes(self) -> Iterator[tuple[int, int]]:
        """Yield, for each pass with pixels, the bytes of a row with its filter, and the rows."""
        bits = self.depth * _SAMPLES[self.colour]
        for left, top, across, down in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            columns = -((left - self.width) // across)
            rows = -((top - self.height) // down)
            if columns > 0 and rows > 0:
                yield (columns * bits + 7) // 8 + 1, rows


@dataclass(frozen=True, slots=True)
class PngParts:
    """The contents of an image's IDAT chunks, and its palette of 256 colours or none."""

    data: Sequence[memoryview]
    palette: bytes


def header_of(png: bytes) -> Header:
    """Parse the header, which must be the first chunk. Raises Refused if it is missing."""
    if png.startswith(PNG_OF_APPLE):
        raise Refused(Problem.OF_APPLE)
    if not png.startswith(PNG_START) or len(png) < PNG_HEADER_BYTES:
        raise Refused(Problem.NO_SIZE)
    content = png[len(PNG_START) :][:_HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")
    return Header(*struct.unpack(">iiBBBBB", content))


def parts_of(png: bytes, header: Header) -> PngParts:
    """Return the chunks of a complete file that make up the image. Raises Refused."""
    data: list[memoryview] = []
    palette = None
    is_over = False
    for place, (kind, content) in enumerate(_chunks(png)):
        if kind == b"IDAT":
            if not is_over:
                data.append(content)
            continue
        is_over = bool(data)
        if kind == b"IHDR":
            _require(place == 0 and len(content) == _HEADER_BYTES and header.is_valid())
        elif kind == b"PLTE":
            _require(palette is None)
            if not is_over:
                palette = content
        elif kind != b"IEND":
            _require(kind[:1].islower())
    _require(is_over)
    return PngParts(data, _colours(palette, header))


def _chunks(png: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the kind and content of each chunk up to IEND.

    Raises Refused for a truncated file, and for a wrong checksum in the image.
    """
    view, at, kind = memoryview(png), len(PNG_MAGIC), b""
    while kind != b"IEND":
        _require(at + _FRAME <= len(png))
        (length,) = struct.unpack_from(">I", png, at)
        kind, start, end = png[at + 4 : at + 8], at + 8, at + 8 + length
        _require(length <= _LARGEST_LENGTH and end + 4 <= len(png))
        _require(_KIND.fullmatch(kind) is not None)
        if kind[:1].isupper():
            (stated,) = struct.unpack_from(">I", png, end)
            _require(zlib.crc32(view[at + 4 : end]) == stated)
        yield kind, view[start:end]
        at = end + 4


def _colours(palette: memoryview | None, header: Header) -> bytes:
    """Return 256 colours of three bytes: black beyond the palette's end, as in libpng."""
    if header.colour != _PALETTE:
        _require(header.colour in _GREY or palette is None or len(palette) > 0)
        return b""
    _require(palette is not None and len(palette) % 3 == 0 and 0 < len(palette) <= _COLOURS)
    return bytes(palette or b"")[: 3 * 2**header.depth].ljust(_COLOURS, b"\0")


def _require(is_so: bool) -> None:
    if not is_so:
        raise Refused(Problem.DAMAGED)


_READ = 8192
"""The bytes of compressed data that libpng reads at a time."""
_AHEAD = 1024
"""How far libpng looks past the last row for the end of the stream."""
_FULL_WINDOW = 7
"""The zlib window size in a stream's first byte: 7 is the largest, 32 KiB."""
_STORED_START, _STORED = b"\x78\x01", struct.Struct("<BHH")
"""A zlib stream of stored blocks: its start, and a block header (RFC 1950, RFC 1951)."""
_LARGEST_BLOCK = 2**16 - 1
_STEP = 2**16
_LAST = 4096
"""More bytes than zlib can give without reading on."""
_ROWS_ALONE = 100_000
"""The rows at most unpacked one by one, as libpng does, where that makes a difference."""
_MODES = {
    (1, 0): ("1", "1"),
    (2, 0): ("L", "L;2"),
    (4, 0): ("L", "L;4"),
    (8, 0): ("L", "L"),
    (16, 0): ("I;16", "I;16B"),
    (8, 2): ("RGB", "RGB"),
    (16, 2): ("RGB", "RGB;16B"),
    (1, 3): ("P", "P;1"),
    (2, 3): ("P", "P;2"),
    (4, 3): ("P", "P;4"),
    (8, 3): ("P", "P"),
    (8, 4): ("LA", "LA"),
    (16, 4): ("RGBA", "LA;16B"),
    (8, 6): ("RGBA", "RGBA"),
    (16, 6): ("RGBA", "RGBA;16B"),
}
"""Pillow's modes of an image and of its rows, by bit depth and colour type."""

Pixels = np.ndarray[Any, Any]


def decode_png(data: bytes, limits: ImageLimits, deadline: Deadline | None = None) -> Pixels:
    """Decode to uint8[height, width, 3]. Raises Refused and DeadlineExceeded."""
    header = header_of(data)
    size = (header.width, header.height)
    require_within(png_cost(data, *size, header.depth, header.colour), limits)
    parts = parts_of(data, header)
    mode, rows = _MODES[header.depth, header.colour]
    # The codec expects a zlib stream, so the rows are wrapped again, uncompressed.
    packed = _rows(header, parts.data)
    image = decoded("zip", mode, size, (rows, header.interlaced), packed, deadline)
    for _ in packed:  # yields nothing more, but checks the end of the stream
        pass
    if mode == "P":
        image.putpalette(parts.palette)
    return in_strips(image, _rgb_of_grey if mode == "I;16" else _rgb, deadline)


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _rgb_of_grey(image: Image.Image) -> Pixels:
    return (np.asarray(image) >> 8).astype(np.uint8)[:, :, np.newaxis]


def _rows(header: Header, data: Sequence[memoryview]) -> Iterator[bytes]:
    """Yield the filtered rows as an uncompressed zlib stream without its end, in pieces.

    Raises Refused where libpng does: for a stream that is damaged, or ends before the rows do.
    """
    unpacker = zlib.decompressobj(0)
    pieces, rest = _pieces(data), b""
    yield _STORED_START
    try:
        for missing in _calls(header, has_small_window=_has_small_window(data)):
            while missing:
                rest = rest or next(pieces)
                rows = unpacker.decompress(rest, min(missing, _LARGEST_BLOCK))
                rest = unpacker.unconsumed_tail
                missing -= len(rows)  # noqa: PLW2901  counted down to the end of this call
                yield _STORED.pack(0, len(rows), len(rows) ^ 0xFFFF) + rows
                if unpacker.eof and missing:
                    raise Refused(Problem.DAMAGED)
    except (zlib.error, StopIteration) as error:
        raise Refused(Problem.DAMAGED) from error
    _require_end(unpacker, rest, pieces)


def _calls(header: Header, *, has_small_window: bool) -> Iterator[int]:
    """Yield the bytes of rows to unpack at a time: whole rows, singly where it makes a difference.

    libpng unpacks each row alone, and reads on before each. That matters at the end of the data,
    and where distances in the stream exceed its window.
    """
    passes = list(header.passes())
    left = sum(length * count for length, count in passes)
    is_slow = has_small_window and sum(count for _, count in passes) <= _ROWS_ALONE
    for length, rows in passes:
        count = rows
        while count:
            many = 1 if is_slow else min(count, _STEP // length, (left - _LAST) // length)
            yield max(many, 1) * length
            count -= max(many, 1)
            left -= max(many, 1) * length


def _pieces(data: Sequence[memoryview]) -> Iterator[bytes]:
    for content in data:
        for at in range(0, len(content), _READ):
            yield bytes(content[at : at + _READ])


def _has_small_window(data: Sequence[memoryview]) -> bool:
    """Return whether the stream announces a window smaller than some distances may need."""
    first = next((content[0] for content in data if len(content)), 0)
    return first >> 4 < _FULL_WINDOW


def _require_end(unpacker: Any, rest: bytes, pieces: Iterator[bytes]) -> None:
    """Raise Refused if libpng finds no end of the stream after the last row.

    It looks for one until it hits an error there, or finds nothing at once; it only warns about
    those.
    """
    step = _AHEAD
    while not unpacker.eof:
        rest = rest or next(pieces, b"")
        if not rest:
            raise Refused(Problem.DAMAGED)
        try:
            more = unpacker.decompress(rest, step)
        except zlib.error:
            return
        if not more and step == _AHEAD:
            return
        rest, step = unpacker.unconsumed_tail, _STEP
