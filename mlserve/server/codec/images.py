"""Check what images in requests cost to decode, and read bodies that consist of image files.

A file of a few kilobytes can decode to gigabytes (a decompression bomb). Every BYTES input is
checked, whatever the model does with it, as any model may decode images (`check_images`).

A REST body may be image files without JSON, as `curl --data-binary @` and `-F` send them. Such a
body is recognised by its Content-Type (`image/*` or `multipart/form-data`), or by its first bytes
whatever the type: curl labels what it posts as a form, and no JSON begins like a JPEG or PNG
(`is_image_body`, `read_image_body`).
"""

from __future__ import annotations

import binascii
import re
import string
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.image_pipeline.jpeg_coding import jpeg_coding
from mlserve.images import (
    JPEG_MAGIC,
    PNG_HEADER_BYTES,
    PNG_MAGIC,
    Excess,
    ImageCost,
    Problem,
    jpeg_cost,
    png_cost,
    problem_error,
)
from mlserve.options import flag_of
from mlserve.server.body_memory import PIECE, UNBOUNDED, Room
from mlserve.server.message import Headers
from mlserve.server.tensors import Array, check_batch_length, check_shape
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


_SOI = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\xff])")
"""A JPEG marker; decoders skip what precedes it, be it other bytes or further FFs.

Repeating FF in the pattern would be quadratic: each FF in a long run starts the search anew.
"""
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""A marker between two scans: not an escaped FF or a restart marker, common in scan data."""
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 without DHT, JPG and DAC (ITU-T T.81, table B.1)."""
_SCAN, _END = 0xDA, 0xD9
_FRAME_BYTES = 7
"""Length (2), precision (1), height (2), width (2); the number of components (1) follows."""
_PNG_LARGEST = 2**31 - 1
"""PNG, section 7.1: larger numbers are invalid, and decoders read them as negative."""
_MAX_MARKERS = 4096
"""Far more than any camera writes; without a limit, a file of markers takes minutes to read."""
_MEANT_AS_BASE64 = re.compile(rb"\s*(?:[/_]9j[/_]|iVBORw0KGgo)")
_BLANKS = 64 * 2**10
"""Blanks before base64 skipped at once: a pattern would skip all while holding the GIL."""
_NOT_BASE64 = bytes(set(range(256)) - set((string.ascii_letters + string.digits + "+/-_").encode()))
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


_MULTIPART = b"multipart/form-data"
_SIGNATURE = "signature_name"
_LONGEST_FIELD = 1000


def check_images(
    signature: Signature, inputs: Mapping[str, Array], settings: ServerSettings
) -> None:
    """Raise InputTooLarge for an image over a limit, NotAnImage for one that hides its size.

    All images of the request count together, each as often as it occurs. Anything but a JPEG, a PNG
    or base64 text of one is left to the model.
    """
    left = settings.request_pixels
    for spec in signature.inputs_in(inputs):
        array = inputs[spec.name]
        if array.dtype == object:
            left -= _pixels(array, settings, left)
            if left < 0:
                raise _too_many(settings)


def work_of(inputs: Mapping[str, Array]) -> int:
    """Return roughly how many bytes a decoder touches for the images in these inputs."""
    work = 0
    for array in inputs.values():
        if array.dtype == object:
            work += sum(cost.work for cost in _costs(array) if cost is not None)
    return work


def cost_of(data: bytes) -> ImageCost | None:
    """Return what a JPEG or PNG file, or base64 text of one, costs to decode; None for other data.

    Raises ValueError for a JPEG with too many markers before its size or between its scans, and
    for a PNG with an invalid size.
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
    """Return the pixels of all images together; stop counting above `enough`."""
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


class _Known(threading.local):
    """The costs of the array that this thread examined last, as it is asked for them twice."""

    array: ReferenceType[Array] | None = None
    costs: Mapping[int, ImageCost | None] = {}


_KNOWN = _Known()


def _costs(array: Array) -> Iterator[ImageCost | None]:
    """Yield the cost of each item; an object that occurs repeatedly is examined once."""
    if _KNOWN.array is not None and _KNOWN.array() is array:
        yield from (_KNOWN.costs[id(item)] for item in array.flat)
        return
    costs: dict[int, ImageCost | None] = {}
    for item in array.flat:
        if id(item) not in costs:
            costs[id(item)] = cost_of(item)
        yield costs[id(item)]
    _KNOWN.array, _KNOWN.costs = ref(array), costs


def _decoded(text: bytes) -> bytes:
    """Decode base64 in pieces, skipping other characters as lenient decoders do."""
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
    """Return None without a frame. Raises ValueError for too many markers before the last scan."""
    coding = jpeg_coding(data)
    frame, place, marker = b"", len(_SOI), _MARKER
    for _ in range(_MAX_MARKERS):
        match = marker.search(data, place)
        kind = _END if match is None else match[1][0]
        if match is None or kind == _END or (kind == _SCAN and not frame):
            break
        place = match.end()
        if kind in _FRAMES and not frame:
            frame = data[place : place + _FRAME_BYTES + 1]
        if kind not in _WITHOUT_LENGTH:
            place += max(int.from_bytes(data[place : place + 2]), 2)
        if kind == _SCAN:
            marker = _SEGMENT
            if coding.last_scan < place:
                break
    else:
        raise ValueError(f"more than {_MAX_MARKERS} markers before the last scan")
    if len(frame) < _FRAME_BYTES:
        return None
    height, width = int.from_bytes(frame[3:5]), int.from_bytes(frame[5:7])
    return jpeg_cost(coding, width, height, sum(frame[_FRAME_BYTES:]))


def _refused(index: int, batch: int, excess: Excess) -> InvalidInput:
    whose = f", which is the {flag_of(excess.limit)} of this server" if excess.limit else ""
    return problem_error(index, batch, excess.text + whose)


def _too_many(settings: ServerSettings) -> InputTooLarge:
    return InputTooLarge(
        f"the images of the request have more than {settings.request_pixels} pixels together, "
        f"which is the {flag_of('max_request_pixels')} of this server",
        hint="send several smaller requests",
    )


@dataclass(slots=True)
class ImageBody:
    """The image files of a body, and the signature that it names (empty: the default one)."""

    files: list[bytes] = field(default_factory=list)
    signature: str = ""


def is_image_body(body: bytes | bytearray, headers: Headers) -> bool:
    """Return whether the body consists of image files rather than JSON."""
    kind = _kind(headers)[0]
    is_image = kind.startswith(b"image/") or kind == _MULTIPART
    return is_image or body.startswith((JPEG_MAGIC, PNG_MAGIC))


def read_image_body(
    body: bytes | bytearray, headers: Headers, settings: ServerSettings, room: Room = UNBOUNDED
) -> ImageBody:
    """Return the files of a body for which `is_image_body` is true.

    Raises InvalidInput for a form that is malformed, has no file or has unknown fields, and
    InputTooLarge for too many files.
    """
    kind, options = _kind(headers)
    room.take(len(body))
    if kind != _MULTIPART:
        return ImageBody([bytes(body)])
    if b"boundary" not in options:
        raise InvalidInput("the Content-Type multipart/form-data names no boundary")
    form = _Form(settings.max_batch_length)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        for start in range(0, len(body), PIECE):
            room.require_time()
            parser.write(bytes(body[start : start + PIECE]))
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the body is not multipart/form-data: {error}") from error
    if not form.is_whole:
        raise InvalidInput("the body is not multipart/form-data: it ends early")
    if not form.body.files:
        raise InvalidInput(
            "the form has no file", hint="send one: curl -F image=@horse.jpg, with the @"
        )
    return form.body


def input_of(
    signature: Signature, files: Sequence[bytes], settings: ServerSettings
) -> dict[str, Array]:
    """Return the files as the only input, one per row. Raises InvalidInput and InputTooLarge."""
    if [spec.dtype for spec in signature.required] != [DType.BYTES]:
        raise InvalidInput(
            f"the body is an image file, which only a signature with one input of bytes takes; "
            f"'{signature.name}' takes ({', '.join(map(str, signature.inputs))})",
            hint="send JSON",
        )
    (spec,) = signature.required
    values = np.empty(len(files), dtype=object)
    values[:] = files
    rank = 1 if spec.shape is None else len(spec.shape)
    is_scalar = rank == 0 and len(files) == 1
    tensor = values.reshape(() if is_scalar else (len(files),) + (1,) * (rank - 1))
    check_batch_length(spec, tensor.shape, settings.max_batch_length)
    check_shape(spec, tensor.shape)
    inputs = {spec.name: tensor}
    check_images(signature, inputs, settings)
    return inputs


def _kind(headers: Headers) -> tuple[bytes, dict[bytes, bytes]]:
    kind, options = parse_options_header(headers.get("content-type"))
    return kind.lower(), options


class _Form:
    """Collects the files and fields that the multipart/form-data parser finds."""

    def __init__(self, most_files: int) -> None:
        self.body = ImageBody()
        self.is_whole = False
        self._most_files = most_files
        self._header = self._value = b""
        self._disposition = b""
        self._part = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_field,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._disposition, self._part = b"", bytearray()

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._part += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")[:_LONGEST_FIELD]
        if b"filename" in options:
            self._add(bytes(self._part))
        elif name == _SIGNATURE and len(self._part) <= _LONGEST_FIELD:
            self.body.signature = self._part.decode(errors="replace")
        else:
            raise InvalidInput(
                f"the form's field {name!r} is not a file",
                hint=f"send files, as curl -F image=@horse.jpg does; a field {_SIGNATURE} may "
                "name the signature",
            )

    def _add(self, file: bytes) -> None:
        if len(self.body.files) == self._most_files:
            raise InputTooLarge(
                f"the form has more than {self._most_files} files, the most that this server takes "
                f"({flag_of('max_batch_length')})",
                hint="send several smaller requests",
            )
        self.body.files.append(file)

    def _finish(self) -> None:
        self.is_whole = True
