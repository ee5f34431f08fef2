"""Image limits and verdicts shared by every backend: decoding cost, and invalid files."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from mlserve.errors import InferenceFailed, InputTooLarge, InvalidInput, NotAnImage

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 24
"""Signature (8), chunk length (4), `IHDR` (4), width (4), height (4); numbers are big-endian."""
PNG_START = PNG_MAGIC + b"\0\0\0\x0dIHDR"
"""How a PNG begins: IHDR comes first and is 13 bytes long."""
PNG_OF_APPLE = PNG_MAGIC + b"\0\0\0\x04CgBI"
"""How the PNG files in iPhone applications begin.

Their pixels are stored differently; no common decoder reads them.
"""
BASE64_OF_IMAGE = r"(?s)\s*([/_]9j[/_]|iVBORw0KGgo).*"
"""Matches base64 text of a JPEG or PNG, in the syntax that Python's re and RE2 share."""


class Problem(Enum):
    """A problem of an image: its text and error; `code` is its position."""

    NONE = ("fine", InvalidInput)
    EMPTY = ("empty: no bytes at all", NotAnImage)
    NOT_AN_IMAGE = (
        "not a JPEG or PNG file, nor base64 text of one (GIF, BMP, WebP and TIFF are not taken)",
        NotAnImage,
    )
    BAD_BASE64 = ("base64 text of an image with a wrong character or length", InvalidInput)
    OF_APPLE = ("not a PNG that can be read: CgBI (Apple's own variant)", NotAnImage)
    NO_SIZE = ("damaged: its header has no valid size", NotAnImage)
    TOO_LARGE = ("too large", InputTooLarge)
    DAMAGED = ("damaged: cut short or altered, so that it cannot be decoded", NotAnImage)
    TOO_COSTLY = ("too costly to decode", InputTooLarge)

    def __init__(self, text: str, error: type[InvalidInput]) -> None:
        self.text = text
        self.error = error

    @property
    def code(self) -> int:
        return list(Problem).index(self)


def problem_error(index: int, batch: int, text: str) -> InvalidInput:
    """Return the error for image `index` of a batch of that size; a batch of one names no index.

    `text` is that of a Problem, possibly with more appended.
    """
    kind = next((p for p in Problem if text.startswith(p.text)), Problem.DAMAGED)
    what = "the image" if batch == 1 else f"image {index} of {batch}"
    return kind.error(f"{what} is {text}", hint=_HINTS.get(kind, _SEND))


_SEND = "send the bytes of a JPEG or PNG file, or their base64 text"
_HINTS = {
    Problem.TOO_LARGE: "make the image smaller before it is sent",
    Problem.TOO_COSTLY: "save it again with an image viewer, as a JPEG that is not progressive",
    Problem.OF_APPLE: "save it as a plain PNG first: open and export it on a Mac, or "
    "`xcrun pngcrush -revert-iphone-optimizations IN.png OUT.png`",
    Problem.DAMAGED: "open the file in an image viewer: it was cut short or altered",
    Problem.NO_SIZE: "open the file in an image viewer: it was cut short or altered",
}


MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
"""The longest side a JPEG can have."""
MAX_SCANS = 50
"""Progressive JPEGs have 6 to 25; more bring no benefit."""
MAX_DECODE_BYTES = 640 * 2**20
"""A PNG of 100 megapixels, RGB of 8 bits, takes 572 MiB."""
MAX_PACKED_TEXTS = 16
SCAN = b"\xff\xda\0"
"""A scan's marker with the upper byte of its length, which is 14 at most (ITU-T T.81, B.2.3).

It cannot occur in the data between scans, where a zero follows each FF.
"""
PROGRESSIVE = (b"\xff\xc2\0", b"\xff\xca\0")
"""The markers of progressive frames (Huffman, arithmetic), each with its upper length byte."""
PACKED_TEXTS = (b"zTXt", b"iTXt")
"""The PNG chunks that hold text, possibly compressed."""
PNG_SAMPLES = (1, 4, 3, 1, 2, 4, 4, 4)
"""Samples per pixel by PNG colour type; 4 for a type that does not exist."""
PNG_LARGEST_DEPTH = 16
RGB = 3
COEFFICIENT_BYTES = 2


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The limits on the size and decoding cost of one image."""

    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    max_scans: int = MAX_SCANS
    max_decode_bytes: int = MAX_DECODE_BYTES


@dataclass(frozen=True, slots=True)
class Excess:
    """An exceeded limit: the problem, details, and the limit's name if it has one."""

    problem: Problem
    detail: str
    limit: str | None

    @property
    def text(self) -> str:
        return self.problem.text + self.detail


@dataclass(frozen=True, slots=True)
class ImageCost:
    """The cost of decoding a file: its size in pixels, and what the decoder has to do.

    `samples` is the number of bytes that the file unpacks to besides the pixels: the rows of a PNG,
    the coefficients of a JPEG that is read in several scans.
    """

    width: int
    height: int
    samples: int
    scans: int = 0
    packed_texts: int = 0

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def decode_bytes(self) -> int:
        """Return the bytes the decoder works on: the samples, plus three per output pixel."""
        return RGB * self.pixels + self.samples

    @property
    def work(self) -> int:
        """Estimate the bytes touched: each scan goes over all coefficients once more."""
        return self.decode_bytes + max(0, self.scans - 1) * self.samples

    def excess(self, limits: ImageLimits) -> Excess | None:
        """Return the first limit exceeded, or None."""
        width, height = self.width, self.height
        if max(width, height) > limits.max_side:
            detail = f" ({width}x{height}, at most {limits.max_side} pixels on each side)"
            return Excess(Problem.TOO_LARGE, detail, "max_side")
        if self.pixels > limits.max_pixels:
            detail = f" ({width}x{height}, at most {limits.max_pixels} pixels)"
            return Excess(Problem.TOO_LARGE, detail, "max_pixels")
        if self.scans > limits.max_scans:
            detail = f" (more than {limits.max_scans} scans)"
            return Excess(Problem.TOO_COSTLY, detail, "max_scans")
        if self.packed_texts > MAX_PACKED_TEXTS:
            detail = f" (more than {MAX_PACKED_TEXTS} packed texts)"
            return Excess(Problem.TOO_COSTLY, detail, None)
        if self.decode_bytes > limits.max_decode_bytes:
            detail = f" ({self.decode_bytes} bytes, at most {limits.max_decode_bytes})"
            return Excess(Problem.TOO_COSTLY, detail, "max_decode_bytes")
        return None


def png_cost(png: bytes, width: int, height: int, depth: int, colour: int) -> ImageCost:
    """Return the cost of a PNG with these header fields."""
    bits = PNG_SAMPLES[min(colour, len(PNG_SAMPLES) - 1)] * min(depth, PNG_LARGEST_DEPTH)
    texts = sum(png.count(kind) for kind in PACKED_TEXTS)
    return ImageCost(width, height, width * height * bits // 8, packed_texts=texts)


class JpegCoding(NamedTuple):
    """How a JPEG is coded, as its markers say: `last_scan` is the position of the last, or -1.

    `components` are the numbers of components of the first scans.
    """

    scans: int
    last_scan: int
    components: list[int]
    is_progressive: bool


def jpeg_cost(coding: JpegCoding, width: int, height: int, components: int) -> ImageCost:
    """Return the cost of a JPEG with these frame fields."""
    is_held = coding.is_progressive or any(number < components for number in coding.components)
    samples = COEFFICIENT_BYTES * components * width * height if is_held else 0
    return ImageCost(width, height, samples, coding.scans)


NAN = "NaN"
INFINITE = "infinite"
SCORE_PROBLEM = re.compile(rf"(\d+) of (\d+) scores are ({NAN}|{INFINITE})")
"""Matches a `score_problem_text` anywhere in a server's message."""


def score_problem_text(bad: int | str, classes: int, kind: str) -> str:
    """Describe `bad` of the scores of that many classes; `kind` is NAN or INFINITE."""
    return f"{bad} of {classes} scores are {kind}"


def scores_failed(index: int, batch: int, text: str) -> InferenceFailed:
    """Return the error for image `index` of a batch; `text` is a `score_problem_text`."""
    what = "the image" if batch == 1 else f"image {index} of {batch}"
    return InferenceFailed(
        f"the model gives no answer for {what}: {text}",
        hint="check the model's weights, and the range of the pixels that it was trained on "
        "(mlserve export --scale)",
    )


def tiny_png() -> bytes:
    """Return an RGB PNG of 8x8 pixels, a gradient: the smallest real image classifier request.

    A single colour would give 0 / 0 in a model that divides by the deviation of the pixels.
    """
    return _gradient(8)


def plain_png() -> bytes:
    """Return an RGB PNG of 256x256 pixels, a gradient: about as large as what models look at."""
    return _gradient(256)


def _gradient(size: int) -> bytes:
    steps = range(0, 256, 256 // size)
    rows = b"".join(b"\0" + b"".join(bytes((x, y, 255 - x)) for x in steps) for y in steps)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum
