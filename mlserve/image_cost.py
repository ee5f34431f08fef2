"""What an image costs to decode, told from its file before any decoder runs, and the limits of it.

A file of some kilobytes can be an image of gigabytes, or minutes of work. Every backend asks the
same of the same bytes, so that their verdicts are the same: here in Python, in an exported graph
with the operations that TensorFlow has. So each number is a plain count of bytes that a decoder
cannot do without, not a reading of the whole file: it may be too high, where such bytes stand in
another place by chance, and never too low.

What decoders were measured to do (TensorFlow 2.21, libjpeg-turbo, libpng; 100 megapixels): 3 bytes
a pixel for the result; a JPEG that comes in several scans is held as coefficients of 2 bytes each,
and each scan goes over all of them, 30 ms or more; each packed text of a PNG is unpacked by libpng,
up to 8 MB of it, 0.3 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlserve.image_problems import Problem

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
