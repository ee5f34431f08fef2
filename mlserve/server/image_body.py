"""REST bodies that are image files and nothing else: what `curl --data-binary @` and `-F` send.

An image is told by its Content-Type (`image/*`), or by its first bytes, whatever the type says:
curl calls what it posts a form. No JSON begins as a JPEG or PNG does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np  # noqa: TID253
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers  # noqa: TID253

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.images import JPEG_MAGIC, PNG_MAGIC
from mlserve.server.dtypes import Array
from mlserve.server.image_header import check_images
from mlserve.server.input_check import check_batch_length, check_shape
from mlserve.server.reading import PIECE, UNBOUNDED, Room
from mlserve.settings import ServerSettings, flag_of
from mlserve.tensors import DType, Signature

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MULTIPART = b"multipart/form-data"
_SIGNATURE = "signature_name"
_LONGEST_FIELD = 1000


@dataclass(slots=True)
class ImageBody:
    """The image files of a body, and the signature that it names: empty for the default one."""

    files: list[bytes] = field(default_factory=list)
    signature: str = ""


def is_image_body(body: bytes | bytearray, headers: Headers) -> bool:
    """Whether the body is image files rather than JSON."""
    kind = _kind(headers)[0]
    is_image = kind.startswith(b"image/") or kind == _MULTIPART
    return is_image or body.startswith((JPEG_MAGIC, PNG_MAGIC))


def read_image_body(
    body: bytes | bytearray, headers: Headers, settings: ServerSettings, room: Room = UNBOUNDED
) -> ImageBody:
    """The files of a body for which `is_image_body` is true.

    Raises InvalidInput for a form that is broken, has no file, or has fields that mean nothing
    here, and InputTooLarge for too many files.
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
    if not form.found.files:
        raise InvalidInput(
            "the form has no file", hint="send one: curl -F image=@horse.jpg, with the @"
        )
    return form.found


def input_of(
    signature: Signature, files: Sequence[bytes], settings: ServerSettings
) -> dict[str, Array]:
    """The files as the signature's only input, one row each. Raises InvalidInput, InputTooLarge."""
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
    kind, options = parse_options_header(headers.get("content-type", ""))
    return kind.lower(), options


class _Form:
    """What a parser of multipart/form-data finds."""

    def __init__(self, most_files: int) -> None:
        self.found = ImageBody()
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
            self.found.signature = self._part.decode(errors="replace")
        else:
            raise InvalidInput(
                f"the form's field {name!r} is not a file",
                hint=f"send files, as curl -F image=@horse.jpg does; a field {_SIGNATURE} may "
                "name the signature",
            )

    def _add(self, file: bytes) -> None:
        if len(self.found.files) == self._most_files:
            raise InputTooLarge(
                f"the form has more than {self._most_files} files, the most that this server takes "
                f"({flag_of('max_batch_length')})",
                hint="send several smaller requests",
            )
        self.found.files.append(file)

    def _finish(self) -> None:
        self.is_whole = True
