"""Images as every backend judges them: what they cost to decode, and what is wrong with them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from mlserve.errors import InferenceFailed, InputTooLarge, InvalidInput, NotAnImage

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 24
"""Signature (8), chunk length (4), `IHDR` (4), width (4), height (4); numbers are big-endian."""
PNG_START = PNG_MAGIC + b"\0\0\0\x0dIHDR"
"""What a PNG begins with: its header is 13 bytes long and stands in front of all."""
PNG_OF_APPLE = PNG_MAGIC + b"\0\0\0\x04CgBI"
"""What the PNG files in an iPhone's applications begin with.

Their pixels are stored in another way; no common decoder reads them.
"""
BASE64_OF_IMAGE = r"(?s)\s*([/_]9j[/_]|iVBORw0KGgo).*"
"""What base64 text of a JPEG or PNG looks like, in the syntax that Python's re and RE2 share."""


class Problem(Enum):
    """One thing that can be wrong: its text and error; `code` is its position."""

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
    """The error for image `index` of a batch of that size; a batch of one has no index to say.

    `text` is that of a Problem, with more said behind it or not.
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
"""The longest side that a JPEG can have."""
MAX_SCANS = 50
"""Progressive JPEGs have 6 to 25; nothing is gained by more."""
MAX_DECODE_BYTES = 640 * 2**20
"""A PNG of 100 megapixels, RGB of 8 bits, takes 572 MiB."""
MAX_PACKED_TEXTS = 16
SCAN = b"\xff\xda\0"
"""A scan's marker with the upper byte of its length, which is 14 at most (ITU-T T.81, B.2.3).

The data between two scans cannot hold it: a zero follows each FF there.
"""
PROGRESSIVE = (b"\xff\xc2\0", b"\xff\xca\0")
"""The marker of a progressive frame, Huffman-coded or arithmetic, with the same of its length."""
PACKED_TEXTS = (b"zTXt", b"iTXt")
"""The chunks of a PNG that hold texts which may be packed."""
PNG_SAMPLES = (1, 4, 3, 1, 2, 4, 4, 4)
"""Samples of a pixel by the colour type of a PNG; 4 for a type that does not exist."""
PNG_LARGEST_DEPTH = 16
RGB = 3
COEFFICIENT_BYTES = 2
_LOOKED_AT = 1000
"""Scans whose components are counted; a file of more is over any limit on scans."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The most that one image may be and cost."""

    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    max_scans: int = MAX_SCANS
    max_decode_bytes: int = MAX_DECODE_BYTES


@dataclass(frozen=True, slots=True)
class Excess:
    """Which limit an image is over: the problem, more about it, and the limit's name or none."""

    problem: Problem
    detail: str
    limit: str | None

    @property
    def text(self) -> str:
        """The words for it."""
        return self.problem.text + self.detail


@dataclass(frozen=True, slots=True)
class ImageCost:
    """What is told from a file: its size in pixels, and what a decoder has to do for it.

    `samples` is the bytes of what the file unpacks to beside the pixels: the rows of a PNG, the
    coefficients of a JPEG that is read in several scans.
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
        """The bytes that the decoder works on: the samples, and three a pixel that come out."""
        return RGB * self.pixels + self.samples

    @property
    def work(self) -> int:
        """About how many bytes it touches: each scan goes over all coefficients once more."""
        return self.decode_bytes + max(0, self.scans - 1) * self.samples

    def excess(self, limits: ImageLimits) -> Excess | None:
        """The first limit that it is over; None where it is within all."""
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
    """The cost of a PNG of which the header says that."""
    bits = PNG_SAMPLES[min(colour, len(PNG_SAMPLES) - 1)] * min(depth, PNG_LARGEST_DEPTH)
    texts = sum(png.count(kind) for kind in PACKED_TEXTS)
    return ImageCost(width, height, width * height * bits // 8, packed_texts=texts)


def jpeg_cost(jpeg: bytes, width: int, height: int, components: int) -> ImageCost:
    """The cost of a JPEG of which the frame says that."""
    is_held = any(kind in jpeg for kind in PROGRESSIVE) or any(
        number < components for number in _components_of_scans(jpeg)
    )
    samples = COEFFICIENT_BYTES * components * width * height if is_held else 0
    return ImageCost(width, height, samples, jpeg.count(SCAN))


def _components_of_scans(jpeg: bytes) -> Iterator[int]:
    """How many components each of the first scans has."""
    at = jpeg.find(SCAN)
    for _ in range(_LOOKED_AT):
        if at < 0:
            return
        yield from jpeg[at + 4 : at + 5]  # behind the length
        at = jpeg.find(SCAN, at + len(SCAN))


NAN = "NaN"
INFINITE = "infinite"
SCORE_PROBLEM = re.compile(rf"(\d+) of (\d+) scores are ({NAN}|{INFINITE})")
"""What `score_problem_text` gives, wherever it stands in the message of a server."""


def score_problem_text(bad: int | str, classes: int, kind: str) -> str:
    """The words for `bad` of the scores of that many classes; `kind` is NAN or INFINITE."""
    return f"{bad} of {classes} scores are {kind}"


def scores_failed(index: int, batch: int, text: str) -> InferenceFailed:
    """The error for image `index` of a batch of that size; `text` is a `score_problem_text`."""
    what = "the image" if batch == 1 else f"image {index} of {batch}"
    return InferenceFailed(
        f"the model gives no answer for {what}: {text}",
        hint="check the model's weights, and the range of the pixels that it was trained on "
        "(mlserve export --scale)",
    )


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
