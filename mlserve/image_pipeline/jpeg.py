"""Decode JPEG as TensorFlow's `decode_jpeg(dct_method="INTEGER_ACCURATE")` does, bit for bit.

Every build of libjpeg-turbo gives the same bytes. simplejpeg writes them straight into an array and
is the fastest, but it cannot be interrupted, and it refuses what libjpeg only warns about (a wrong
bit in the middle) and TensorFlow accepts. Those files, CMYK, and large ones of several scans go to
Pillow's decoder, which reads a file as TensorFlow does: as far as it goes, without inserting a
missing end marker. A progressive file that lacks scans is refused, although TensorFlow accepts it:
its pixels differ between versions of libjpeg-turbo.

Segments are parsed here only where TensorFlow's reading depends on something Pillow does not
report. Markers are those of ITU-T T.81, table B.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

from mlserve.deadline import Deadline
from mlserve.image_pipeline.codec import Refused, decoded, in_strips, require_within
from mlserve.image_pipeline.jpeg_coding import jpeg_coding
from mlserve.images import SCAN, ImageLimits, Problem, jpeg_cost

_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""Matches the start of a segment, or the end: not an escaped or reserved byte, RSTn or SOI."""
_EOI, _SOS, _ADOBE = 0xD9, 0xDA, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))
_PROGRESSIVE = frozenset((0xC2, 0xCA))
_UNKNOWN = _FRAMES - _SEQUENTIAL - _PROGRESSIVE
"""Frames that TensorFlow's libjpeg refuses at their marker: lossless and hierarchical ones."""
_READ_WHOLE = _FRAMES | {0xC4, 0xCC, 0xDA, 0xDB, 0xDD}
"""Segments that libjpeg reads byte by byte; it skips to the end of the others."""
_READ_IN_PART = {0xE0: 14, _ADOBE: 14}
"""Segments of which libjpeg reads this many bytes before skipping the rest (jdmarker.c)."""
_ADOBE_BYTES = 12
_FRAME_BYTES = 6
_BYTES_OF_COMPONENT = 3
_SCAN_BYTES = 6
_SMOOTHED = 10
"""The coefficients of a block that decide on smoothing (SAVED_COEFS in jdcoefct.h)."""
_MOST = 4096
_FIRST_OF_FRAME = 8
"""The bytes of a frame's segment that libjpeg reads before it rejects a second frame."""


class Segment(NamedTuple):
    """A marker in a file: its second byte, its position, and the end of its segment.

    `start` is just after the marker. `end` may lie beyond the end of the file.
    """

    marker: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame header: the size, the number of components, and their coding.

    `is_read_at_once` means that all components are in one scan, not progressive, so that rows come
    out while the file is read; otherwise the whole file is read first.
    """

    width: int
    height: int
    components: int
    is_progressive: bool
    is_read_at_once: bool


def frame_of(data: bytes) -> Frame | None:
    """Parse the frame header of a JPEG; None if libjpeg finds none that it supports."""
    frame, coding = b"", 0
    for segment in segments(data):
        if segment.marker in _FRAMES and not frame:
            frame, coding = data[segment.start + 2 : segment.end], segment.marker
        elif segment.marker in (_SOS, _EOI):
            content = data[segment.start + 2 : segment.end]
            if coding in _UNKNOWN or len(frame) < _FRAME_BYTES or not content:
                return None
            height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
            is_progressive = coding in _PROGRESSIVE
            is_at_once = not is_progressive and content[0] == frame[5]
            return Frame(width, height, frame[5], is_progressive, is_at_once)
    return None


def has_adobe(data: bytes, frame: Frame) -> bool:
    """Return whether the Adobe segment is read before any row: CMYK is then inverted."""
    for segment in segments(data):
        content = data[segment.start + 2 : segment.end]
        if segment.marker == _ADOBE and len(content) >= _ADOBE_BYTES and content[:5] == b"Adobe":
            return True
        if segment.marker == _SOS and frame.is_read_at_once:
            return False
    return False


def readable(data: bytes) -> bytes | None:
    """Return the file as far as TensorFlow reads it when rows come out at once; None if it fails.

    By then all rows are decoded, and the rest is read only for the end marker. TensorFlow fails
    when it needs bytes beyond the last one, but accepts a file that ends within a segment it has
    begun to read. A truncated second frame is cut off, as later libjpegs reject it at its first
    byte.
    """
    for segment in segments(data):
        there, length = len(data) - segment.start, segment.end - segment.start
        if segment.marker == _EOI:
            return data
        if segment.marker in _UNKNOWN:
            return None
        if there >= length:
            continue
        is_whole = segment.marker in _READ_WHOLE
        needed = length if is_whole else min(length, 2 + _READ_IN_PART.get(segment.marker, 0))
        if not 0 < there < needed:
            return None
        is_second = segment.marker in _FRAMES and there < _FIRST_OF_FRAME
        return data[: segment.start - 2] + b"\xff\xd9" if is_second else data
    return data if data.endswith(b"\xff") else None


def lacks_scans(data: bytes) -> bool:
    """Return whether a decodable progressive JPEG lacks scans that refine its first coefficients.

    libjpeg smooths the blocks of such a file, each version in its own way.
    """
    unknown: set[tuple[int, int]] = set()
    for segment in segments(data):
        content = data[segment.start + 2 : segment.end]
        if segment.marker in _PROGRESSIVE and len(content) > _FRAME_BYTES:
            components = content[_FRAME_BYTES::_BYTES_OF_COMPONENT]
            unknown = {(part, place) for part in components for place in range(_SMOOTHED)}
        elif segment.marker == _SOS and len(content) >= _SCAN_BYTES:
            listed, (first, last, bits) = content[1:-3:2], content[-3:]
            known = {(part, place) for part in listed for place in range(first, last + 1)}
            # The lower half of `bits` is the number of low bits still to come.
            unknown = unknown | known if bits & 0x0F else unknown - known
    return bool(unknown)


def segments(data: bytes) -> Iterator[Segment]:
    """Yield each marker that begins a segment, up to and including the end marker.

    Raises Refused for more than any real file has: a file of nothing but markers takes minutes.
    """
    found, count = _MARKER.search(data, 2), 0
    while found is not None:
        count += 1
        if count > _MOST:
            raise Refused(Problem.DAMAGED)
        marker, start = found[1][0], found.end()
        length = 0 if marker == _EOI else max(int.from_bytes(data[start : start + 2]), 2)
        yield Segment(marker, start, start + length)
        found = None if marker == _EOI else _MARKER.search(data, start + length)


_CMYK = 4
_SHORT_WORK = 2**26
"""Work done without a deadline check, in bytes: a quarter of a second."""
_PIECE = 2**16

Pixels = np.ndarray[Any, Any]


JpegDecoder = Callable[[bytes], Pixels]
"""Decodes a JPEG of one or three components to uint8[height, width, 3 or 4]; a fourth channel means
nothing. Raises ValueError if it cannot, and Pillow's decoder then has the file."""


def accurate(data: bytes, memory: Callable[[int, int], Pixels] | None = None) -> Pixels:
    """Decode as every backend does: see the module's docstring. Raises ValueError.

    `memory` returns where to leave the pixels, uint8[height, width, 3], for a height and a width.
    """
    try:
        into = None if memory is None else memory(*simplejpeg.decode_jpeg_header(data)[:2])
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, fastdct=False, fastupsample=False, buffer=into
        )
    except KeyError as error:  # a subsampling it does not know
        raise ValueError(str(error)) from error
    return pixels


def padded(data: bytes) -> Pixels:
    """Decode as `accurate`, with a byte behind each pixel: uint8[height, width, 4].

    Pillow keeps RGB so, and resizes such pixels where they are. Raises ValueError.
    """
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGBA", fastdct=False, fastupsample=False
        )
    except KeyError as error:
        raise ValueError(str(error)) from error
    return pixels


def decode_jpeg(
    data: bytes,
    limits: ImageLimits,
    deadline: Deadline | None = None,
    decoder: JpegDecoder = accurate,
) -> Pixels:
    """Decode to uint8[height, width, 3]. Raises Refused and DeadlineExceeded."""
    frame = frame_of(data)
    if frame is None or not frame.width or not frame.height:
        raise Refused(Problem.DAMAGED)
    cost = jpeg_cost(jpeg_coding(data), frame.width, frame.height, frame.components)
    require_within(cost, limits)
    if frame.is_progressive and lacks_scans(data):
        raise Refused(Problem.DAMAGED)
    is_long = not frame.is_read_at_once and cost.work > _SHORT_WORK
    if frame.components != _CMYK and not is_long:
        try:
            return decoder(data)
        except ValueError:
            return _with_pillow(data, frame, deadline)
    return _with_pillow(data, frame, deadline)


def _with_pillow(data: bytes, frame: Frame, deadline: Deadline | None) -> Pixels:
    whole = readable(data) if frame.is_read_at_once else data
    if whole is None:
        raise Refused(Problem.DAMAGED)
    is_cmyk = frame.components == _CMYK
    mode = "CMYK" if is_cmyk else "RGB"
    size = (frame.width, frame.height)
    # With `is_read_at_once`, all rows are out before the end of the file has been read: errors in
    # that end appear only while the codec has it.
    pieces = [whole] if frame.is_read_at_once else _pieces(whole)
    image = decoded("jpeg", mode, size, (mode, ""), pieces, deadline)
    if not is_cmyk:
        return in_strips(image, np.asarray, deadline)
    is_light = has_adobe(data, frame)
    return in_strips(
        image, lambda strip: _rgb_of_cmyk(np.asarray(strip), is_light=is_light), deadline
    )


def _pieces(data: bytes) -> Iterator[memoryview]:
    """Yield the file in pieces, cut at the start of each scan and where a piece gets long.

    A JPEG of several scans is read to its end before its rows come out.
    """
    view, at = memoryview(data), 0
    while at < len(data):
        scan = data.find(SCAN, at + 1, at + _PIECE)
        end = min(len(data), at + _PIECE) if scan < 0 else scan
        yield view[at:end]
        at = end


def _rgb_of_cmyk(stored: Pixels, *, is_light: bool) -> Pixels:
    """Convert as TensorFlow does, rounding down; Adobe stores inverted CMYK."""
    light = stored if is_light else 255 - stored
    product = light[:, :, :3].astype(np.uint16) * light[:, :, 3:]
    rgb: Pixels = (product // 255).astype(np.uint8)
    return rgb
