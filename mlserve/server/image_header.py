"""The size and the cost of an image, told from its file before anything decodes it.

A file of some kilobytes can hold an image of gigabytes (a decompression bomb). Every BYTES input is
looked at, whatever the model does with it: a model of another maker may decode images too.
"""

from __future__ import annotations

import binascii
import re
import string
from collections.abc import Iterator, Mapping

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.images import (
    PNG_HEADER_BYTES,
    PNG_MAGIC,
    SCAN,
    Excess,
    ImageCost,
    Problem,
    jpeg_cost,
    png_cost,
    problem_error,
)
from mlserve.server.dtypes import Array
from mlserve.server.reading import PIECE
from mlserve.settings import ServerSettings, flag_of
from mlserve.tensors import Signature

_SOI = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\xff])")
"""A JPEG marker, of which decoders skip what stands before it: other bytes, and more of FF.

A repeated FF in the pattern would be quadratic: each FF of a long row starts the search anew.
"""
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""A marker between two scans: not an escaped byte or a restart, of which data may be full."""
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 without DHT, JPG and DAC (ITU-T T.81, table B.1)."""
_SCAN, _END = 0xDA, 0xD9
_FRAME_BYTES = 7
"""Length (2), precision (1), height (2), width (2); the number of components (1) follows."""
_PNG_LARGEST = 2**31 - 1
"""PNG, section 7.1: a number above is none, and decoders read it as a negative one."""
_MAX_MARKERS = 4096
"""Far more than any camera writes; else a file of markers is minutes of work."""
_MEANT_AS_BASE64 = re.compile(rb"\s*(?:[/_]9j[/_]|iVBORw0KGgo)")
_BLANKS = 64 * 2**10
"""Blanks before base64 that are skipped at once: a pattern skips them with the lock held."""
_NOT_BASE64 = bytes(set(range(256)) - set((string.ascii_letters + string.digits + "+/-_").encode()))
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def check_images(
    signature: Signature, inputs: Mapping[str, Array], settings: ServerSettings
) -> None:
    """Raises InputTooLarge for an image over a limit, NotAnImage for one that hides its size.

    All images of the request count together, each as often as it stands there. What is no JPEG or
    PNG, nor base64 text of one, is left to the model.
    """
    left = settings.request_pixels
    for spec in signature.inputs_in(inputs):
        array = inputs[spec.name]
        if array.dtype == object:
            left -= _pixels(array, settings, left)
            if left < 0:
                raise _too_many(settings)


def work_of(inputs: Mapping[str, Array]) -> int:
    """About how many bytes a decoder touches for the images in these inputs."""
    work = 0
    for array in inputs.values():
        if array.dtype == object:
            work += sum(cost.work for cost in _costs(array) if cost is not None)
    return work


def cost_of(data: bytes) -> ImageCost | None:
    """What a JPEG or PNG file, or base64 text of one, costs to decode; None where there is none.

    Raises ValueError for a JPEG with more markers in front of its size, or between its scans, than
    are looked at, and for a PNG whose size is none.
    """
    start = 0
    while data[start : start + _BLANKS].isspace():
        start += _BLANKS
    text = data[start:] if start else data
    file = _decoded(text) if _MEANT_AS_BASE64.match(text) else data
    if file.startswith(_SOI):
        return _jpeg_cost(file)
    if file.startswith(PNG_MAGIC) and file[12:16] == b"IHDR" and len(file) >= PNG_HEADER_BYTES:
        return _png_cost(file)
    return None


def _pixels(array: Array, settings: ServerSettings, enough: int) -> int:
    """The pixels of all images together; it stops to count after `enough`."""
    limits, pixels, index = settings.image_limits, 0, 0
    try:
        for index, cost in enumerate(_costs(array)):
            excess = None if cost is None else cost.excess(limits)
            if excess is not None:
                raise _refused(index, array.size, excess)
            pixels += 0 if cost is None else cost.pixels
            if pixels > enough:
                break
    except ValueError as error:
        raise problem_error(index, array.size, Problem.NO_SIZE.text) from error
    return pixels


def _costs(array: Array) -> Iterator[ImageCost | None]:
    """The cost of each; one that stands in several places is looked at once."""
    known: dict[int, ImageCost | None] = {}
    for item in array.flat:
        if id(item) not in known:
            known[id(item)] = cost_of(item)
        yield known[id(item)]


def _decoded(text: bytes) -> bytes:
    """What the text stands for; what is not base64 in it is left out, as lenient readers do."""
    parts, rest = [], b""
    for start in range(0, len(text), PIECE):
        body = rest + text[start : start + PIECE].translate(_TO_STANDARD, _NOT_BASE64)
        whole = len(body) - len(body) % 4
        parts.append(binascii.a2b_base64(body[:whole]))
        rest = body[whole:]
    if len(rest) > 1:
        parts.append(binascii.a2b_base64(rest + b"=" * (4 - len(rest))))
    return b"".join(parts)


def _png_cost(data: bytes) -> ImageCost:
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if max(width, height) > _PNG_LARGEST:
        raise ValueError(f"a PNG of {width}x{height}")
    depth, colour = data[24:26].ljust(2, b"\0")
    return png_cost(data, width, height, depth, colour)


def _jpeg_cost(data: bytes) -> ImageCost | None:
    """None where there is no frame. Raises ValueError for too many markers before the last scan."""
    frame, place, marker = b"", len(_SOI), _MARKER
    for _ in range(_MAX_MARKERS):
        found = marker.search(data, place)
        kind = _END if found is None else found[1][0]
        if found is None or kind == _END or (kind == _SCAN and not frame):
            break
        place = found.end()
        if kind in _FRAMES and not frame:
            frame = data[place : place + _FRAME_BYTES + 1]
        if kind not in _WITHOUT_LENGTH:
            place += max(int.from_bytes(data[place : place + 2]), 2)
        if kind == _SCAN:
            marker = _SEGMENT
            if data.find(SCAN, place) < 0:
                break
    else:
        raise ValueError(f"more than {_MAX_MARKERS} markers before the last scan")
    if len(frame) < _FRAME_BYTES:
        return None
    height, width = int.from_bytes(frame[3:5]), int.from_bytes(frame[5:7])
    return jpeg_cost(data, width, height, sum(frame[_FRAME_BYTES:]))


def _refused(index: int, batch: int, excess: Excess) -> InvalidInput:
    whose = f", which is the {flag_of(excess.limit)} of this server" if excess.limit else ""
    return problem_error(index, batch, excess.text + whose)


def _too_many(settings: ServerSettings) -> InputTooLarge:
    return InputTooLarge(
        f"the images of the request have more than {settings.request_pixels} pixels together, "
        f"which is the {flag_of('max_request_pixels')} of this server",
        hint="send several smaller requests",
    )
