"""tf.Examples, which Classify, Regress and MultiInference take in place of tensors.

The model parses them itself: here they stay the serialized messages that its input of strings
takes. What a message claims to hold is counted before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.server.tensors import Array
from mlserve.settings import ServerSettings, flag_of
from mlserve.wire.proto.unread_input_pb2 import UnreadInput

_EXAMPLES, _CONTEXT = 1, 2
"""The fields of ExampleList and ExampleListWithContext."""
_MOST_OTHERS = 100
"""Fields that a message may have beside its examples: the context, and what later versions add."""
_OBJECT_BYTES = 64
"""About what an example takes beside its content, once it is an object in an array."""
_LOOKS_UP = 2**14
"""After so many fields the time is looked at."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 63
_TAGS = 2**32


def read_examples(data: bytes, settings: ServerSettings, deadline: Deadline) -> Array:
    """The examples of a serialized Input, object[N] of bytes, each with the context in front.

    A context is put in front of an example as it is: two messages behind each other are one with
    the fields of both. Raises InvalidInput, also for an input without examples, InputTooLarge, and
    DeadlineExceeded.
    """
    try:
        sent = UnreadInput.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"the input is not a tensorflow.serving.Input: {error}") from error
    kind = sent.WhichOneof("kind")
    content: bytes = b"" if kind is None else getattr(sent, kind)
    most = _most_examples(settings)
    fields = fields_of(content, most + _MOST_OTHERS, deadline)
    if fields is None:
        raise _too_many(settings)
    has_context = kind == "example_list_with_context"
    context = b"".join(fields.get(_CONTEXT, ())) if has_context else b""
    return to_array(fields.get(_EXAMPLES, ()), context, settings)


def to_array(examples: Sequence[bytes], context: bytes, settings: ServerSettings) -> Array:
    """These serialized examples as object[N], each with the context in front.

    Raises InvalidInput when there are none, and InputTooLarge for more than a batch may have, and
    where a context in each of them makes too many bytes.
    """
    if not examples:
        raise InvalidInput("Input is empty.")
    check_count(len(examples), settings)
    size = sum(map(len, examples)) + len(context) * len(examples)
    if size > settings.max_request_bytes:
        raise InputTooLarge(
            f"{len(examples)} examples with a context of {len(context)} bytes in each are {size} "
            f"bytes; this server takes at most {settings.max_request_bytes} "
            f"({flag_of('max_request_bytes')})",
            hint="send several smaller requests",
        )
    return np.array([*(context + example for example in examples), None], dtype=object)[:-1]


def check_count(count: int, settings: ServerSettings) -> None:
    """Raises InputTooLarge for more examples than a batch may have."""
    if count > _most_examples(settings):
        raise _too_many(settings)


def fields_of(message: bytes, most: int, deadline: Deadline) -> dict[int, list[bytes]] | None:
    """The contents of the fields of a serialized message that are bytes or messages, by number.

    None where it has more than `most` fields of any kind: no more are looked at. Raises
    InvalidInput for what is not a message, and DeadlineExceeded.
    """
    found: dict[int, list[bytes]] = {}
    place = 0
    for index in range(most):
        if place == len(message):
            break
        if index % _LOOKS_UP == 0:
            deadline.require("reading the examples")
        tag, start = _varint(message, place)
        if tag >= _TAGS:  # two readers could see two fields in it
            raise _not_a_message()
        length, start = _length(message, tag & 7, start)
        place = start + length
        if place > len(message):
            raise _not_a_message()
        if tag & 7 == _BYTES:
            found.setdefault(tag >> 3, []).append(message[start:place])
    return found if place == len(message) else None


def _length(message: bytes, kind: int, place: int) -> tuple[int, int]:
    """The length of a field's content, and where that starts."""
    if kind == _BYTES:
        return _varint(message, place)
    if kind == _VARINT:
        return 0, _varint(message, place)[1]
    if kind in (_FIXED64, _FIXED32):
        return (8 if kind == _FIXED64 else 4), place
    raise _not_a_message()


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number at that place, and the place behind it."""
    value = shift = 0
    while place < len(message) and shift <= _MAX_VARINT_BITS:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:  # noqa: PLR2004 - the sign bit says that more follows
            return value, place
        shift += 7
    raise _not_a_message()


def _most_examples(settings: ServerSettings) -> int:
    """As many as a batch may have, and as their objects have room for in the largest request."""
    return min(settings.max_batch_length, settings.max_request_bytes // _OBJECT_BYTES)


def _too_many(settings: ServerSettings) -> InputTooLarge:
    most = _most_examples(settings)
    setting = "max_batch_length" if most == settings.max_batch_length else "max_request_bytes"
    return InputTooLarge(
        f"the input has more than {most} examples, the most that this server takes "
        f"({flag_of(setting)})",
        hint="send several smaller requests",
    )


def _not_a_message() -> InvalidInput:
    return InvalidInput("the input is not a message of examples: it ends early, or is not protobuf")
