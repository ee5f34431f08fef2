"""Parse protobuf answers within limits, and report malformed ones.

protobuf turns two bytes on the wire into an object of a hundred bytes or more, and blocks other
threads meanwhile. So the fields of a large answer are counted first.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from mlserve.client.refusals import Unreadable

M = TypeVar("M", bound=Message)
MOST_FIELDS = 100_000
"""More fields than any answer about one image or one model has; packed numbers are one field."""
_SMALL = 2**16
"""Answers of fewer bytes are parsed without counting their fields."""
_MOST_PACKED = 2**23
"""Bytes of packed numbers in one field: a million of the widest."""
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
"""Bytes of the fixed-length wire types (protobuf.dev/programming-guides/encoding)."""
_CONTINUES = 0x80
_SHIFTS = range(0, 70, 7)


def parse_message(kind: type[M], body: bytes, *, is_bounded: bool = True) -> M:
    """Parse the message in `body`. Raises Unreadable, also for more than `MOST_FIELDS` fields.

    With `is_bounded` False only the size of the answer limits them: to count millions of strings
    takes far longer than to parse them. protobuf then makes up to 22 bytes of one on the wire.
    """
    name = kind.DESCRIPTOR.name
    try:
        if is_bounded and len(body) > _SMALL and not _has_few_fields(kind, body):
            raise Unreadable(f"a {name} of at most {MOST_FIELDS} fields", f"{len(body)} bytes")
        return kind.FromString(body)
    except (DecodeError, IndexError) as error:
        raise Unreadable(f"a {name}", f"{len(body)} bytes, {error}") from error


def _has_few_fields(kind: type[Message], body: bytes) -> bool:
    """Count the fields of a message and its submessages. Raises IndexError if it is truncated."""
    left, pending = MOST_FIELDS, [(kind.DESCRIPTOR, 0, len(body))]
    while pending:
        descriptor, at, end = pending.pop()
        fields = descriptor.fields_by_number
        while at < end:
            left -= 1
            if left < 0:
                return False
            tag, at = (body[at], at + 1) if body[at] < _CONTINUES else _varint(body, at)
            form = tag & 7
            if form != _DELIMITED:
                at = at + _FIXED[form] if form in _FIXED else _varint(body, at)[1]
                continue
            size, at = (body[at], at + 1) if body[at] < _CONTINUES else _varint(body, at)
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None:
                pending.append((field.message_type, at, min(at + size, end)))
            elif field is not None and field.type not in _TEXTS and size > _MOST_PACKED:
                return False
            at += size
    return True


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the varint there, and its end. Raises IndexError for more than 64 bits."""
    value = 0
    for shift in _SHIFTS:
        byte = body[at]
        at += 1
        value |= (byte & ~_CONTINUES) << shift
        if byte < _CONTINUES:
            return value, at
    raise IndexError("a number has more than 64 bits")
