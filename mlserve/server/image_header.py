"""The size of an image, told from its header before anything decodes it.

A file of some kilobytes can hold an image of gigabytes (a decompression bomb). Every BYTES input is
looked at, whatever the model does with it: a model of another maker may decode images too.
"""

from __future__ import annotations

import binascii
import re
import string
from collections.abc import Mapping

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.image_problems import PNG_HEADER_BYTES, PNG_MAGIC, Problem, problem_error
from mlserve.server.dtypes import Array
from mlserve.settings import ServerSettings, flag_of
from mlserve.tensors import Signature

_SOI = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\xff])")
"""A JPEG marker, of which decoders skip what stands before it: other bytes, and more of FF.

A repeated FF in the pattern would be quadratic: each FF of a long row starts the search anew.
"""
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 without DHT, JPG and DAC (ITU-T T.81, table B.1)."""
_ENDS = frozenset((0xD9, 0xDA))
_FRAME_BYTES = 7
"""Length (2), precision (1), height (2), width (2)."""
_PNG_LARGEST = 2**31 - 1
"""PNG, section 7.1: a number above is none, and decoders read it as a negative one."""
_MAX_MARKERS = 4096
"""Far more than any camera writes before the frame; else a file of markers is minutes of work."""
_MEANT_AS_BASE64 = re.compile(rb"\s*(?:[/_]9j[/_]|iVBORw0KGgo)")
_NOT_BASE64 = bytes(set(range(256)) - set((string.ascii_letters + string.digits + "+/-_").encode()))
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_FIRST_LOOK = 128 * 2**10
"""Characters of base64 that are decoded first: nearly every header is in them."""


def check_images(
    signature: Signature, inputs: Mapping[str, Array], settings: ServerSettings
) -> None:
    """Raises InputTooLarge for more pixels than an image, or all of them together, may have.

    Raises NotAnImage for one that hides its size. What is no JPEG or PNG, nor base64 text of one,
    is left to the model.
    """
    left = settings.request_pixels
    for spec in signature.inputs_in(inputs):
        array = inputs[spec.name]
        if array.dtype == object:
            left -= _pixels(array, settings.max_pixels, left)
            if left < 0:
                raise _too_many(settings)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG or PNG file, or of base64 text of one; None where none is found.

    Raises ValueError for a JPEG with more markers in front of its size than are looked at, and for
    a PNG whose size is none.
    """
    if _MEANT_AS_BASE64.match(data):
        return _size_in_text(data)
    return _size_in_file(data)


def _pixels(array: Array, most_of_one: int, enough: int) -> int:
    """The pixels of all images together; it stops to count after `enough`."""
    found = 0
    last, pixels = None, 0
    for index, item in enumerate(array.flat):
        if item is not last:  # one that is repeated to fill a shape is the same object
            last, pixels = item, _pixels_of(item, index, array.size, most_of_one)
        found += pixels
        if found > enough:
            break
    return found


def _pixels_of(item: bytes, index: int, batch: int, most: int) -> int:
    try:
        size = size_of(item)
    except ValueError as error:
        raise problem_error(index, batch, Problem.NO_SIZE.text) from error
    if size is None:
        return 0
    width, height = size
    if width * height > most:
        raise _too_large(index, batch, size, most)
    return width * height


def _size_in_file(data: bytes) -> tuple[int, int] | None:
    if data.startswith(_SOI):
        return _jpeg_size(data)
    if data.startswith(PNG_MAGIC) and data[12:16] == b"IHDR" and len(data) >= PNG_HEADER_BYTES:
        return _png_size(data)
    return None


def _size_in_text(text: bytes) -> tuple[int, int] | None:
    size = _size_in_file(_decoded(text[:_FIRST_LOOK]))
    return _size_in_file(_decoded(text)) if size is None and len(text) > _FIRST_LOOK else size


def _decoded(text: bytes) -> bytes:
    """What the text stands for; what is not base64 in it is left out, as lenient readers do."""
    body = text.translate(_TO_STANDARD, _NOT_BASE64)
    body = body[:-1] if len(body) % 4 == 1 else body
    return binascii.a2b_base64(body + b"=" * (-len(body) % 4))


def _png_size(data: bytes) -> tuple[int, int]:
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if max(size) > _PNG_LARGEST:
        raise ValueError(f"a PNG of {size[0]}x{size[1]}")
    return size


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    place = len(_SOI)
    for _ in range(_MAX_MARKERS):
        found = _MARKER.search(data, place)
        if found is None:
            return None
        kind, place = found[1][0], found.end()
        if kind in _FRAMES:
            return _frame_size(data[place : place + _FRAME_BYTES])
        if kind in _ENDS:
            return None
        if kind not in _WITHOUT_LENGTH:
            place += max(int.from_bytes(data[place : place + 2]), 2)
    raise ValueError(f"more than {_MAX_MARKERS} markers before the frame")


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    if len(frame) < _FRAME_BYTES:
        return None
    return int.from_bytes(frame[5:7]), int.from_bytes(frame[3:5])


def _too_large(index: int, batch: int, size: tuple[int, int], max_pixels: int) -> InvalidInput:
    width, height = size
    return problem_error(
        index,
        batch,
        f"{Problem.TOO_LARGE.text} ({width}x{height}, at most {max_pixels} pixels), which is the "
        f"{flag_of('max_pixels')} of this server",
    )


def _too_many(settings: ServerSettings) -> InputTooLarge:
    return InputTooLarge(
        f"the images of the request have more than {settings.request_pixels} pixels together, "
        f"which is the {flag_of('max_request_pixels')} of this server",
        hint="send several smaller requests",
    )
