"""The chunks of a PNG file, read as libpng reads them: what it takes, and what it refuses.

Chunks beside the image may be damaged as they like. Section numbers are those of the PNG
specification, third edition; what goes beyond it is libpng's (pngrutil.c, pngread.c).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlserve.images import PNG_HEADER_BYTES, PNG_MAGIC, PNG_OF_APPLE, PNG_START, Problem
from mlserve_onnxruntime.refusal import Refused

_FRAME = 12
"""Length (4), kind (4), then the content and its checksum (4)."""
_HEADER_BYTES = 13
_LARGEST_SIDE = 1_000_000
"""libpng's own limit (PNG_USER_WIDTH_MAX, PNG_USER_HEIGHT_MAX)."""
_LARGEST_LENGTH = 2**31 - 1
_KIND = re.compile(rb"[A-Za-z]{4}")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The bits that a sample may have, by colour type (section 11.2.1)."""
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
    """The fields of IHDR; only the size has been looked at."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlaced: int

    def is_valid(self) -> bool:
        """Whether libpng takes an image of this kind and size."""
        return (
            self.depth in _DEPTHS.get(self.colour, ())
            and max(self.width, self.height) <= _LARGEST_SIDE
            and (self.compression, self.filtering) == (0, 0)
            and self.interlaced in (0, 1)
        )

    def passes(self) -> Iterator[tuple[int, int]]:
        """The bytes of a row with its filter, and the number of rows, of each pass with pixels."""
        bits = self.depth * _SAMPLES[self.colour]
        for left, top, across, down in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            columns = -((left - self.width) // across)
            rows = -((top - self.height) // down)
            if columns > 0 and rows > 0:
                yield (columns * bits + 7) // 8 + 1, rows


@dataclass(frozen=True, slots=True)
class PngParts:
    """What the image is made of: the contents of its IDAT chunks, and 256 colours or none."""

    data: Sequence[memoryview]
    palette: bytes


def header_of(png: bytes) -> Header:
    """The header, which has to be the first chunk. Raises Refused for a file without one."""
    if png.startswith(PNG_OF_APPLE):
        raise Refused(Problem.OF_APPLE)
    if not png.startswith(PNG_START) or len(png) < PNG_HEADER_BYTES:
        raise Refused(Problem.NO_SIZE)
    content = png[len(PNG_START) :][:_HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")
    return Header(*struct.unpack(">iiBBBBB", content))


def parts_of(png: bytes, header: Header) -> PngParts:
    """The chunks of a whole file that the image is made of. Raises Refused for any other file."""
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
    """The kind and content of each chunk up to IEND.

    Raises Refused for a file that is cut short, and for one with a wrong checksum in the image.
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
    """256 colours of three bytes: black where the palette ends, as in libpng."""
    if header.colour != _PALETTE:
        _require(header.colour in _GREY or palette is None or len(palette) > 0)
        return b""
    _require(palette is not None and len(palette) % 3 == 0 and 0 < len(palette) <= _COLOURS)
    return bytes(palette or b"")[: 3 * 2**header.depth].ljust(_COLOURS, b"\0")


def _require(is_so: bool) -> None:
    if not is_so:
        raise Refused(Problem.DAMAGED)
