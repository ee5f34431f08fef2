"""Read tf.Examples, which Classify, Regress and MultiInference take instead of tensors.

The model parses them itself, from an input of strings: here they stay, or become, serialized
messages. Over gRPC they already are; what a message claims to hold is counted before any of it is
unpacked. Over REST each is a JSON object of its features, beside an optional one for all:

    {"examples": [{"x": 1.5, "tags": ["a", {"b64": "..."}]}, ...], "context": {...}}

The allowed values of a feature, and the error messages, are those of json_tensor.cc, except that
values in messages are cut here.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput, bounded
from mlserve.options import flag_of
from mlserve.server.codec.json_lists import PackedList
from mlserve.server.codec.json_values import from_base64
from mlserve.server.tensors import Array
from mlserve.settings import ServerSettings
from mlserve.wire.proto.example_pb2 import Example, Feature
from mlserve.wire.proto.unread_input_pb2 import UnreadInput

_EXAMPLES, _CONTEXT = 1, 2
"""The fields of ExampleList and ExampleListWithContext."""
_MOST_OTHERS = 100
"""Fields that a message may have beside its examples: the context, and those of later versions."""
_OBJECT_BYTES = 64
"""Approximate bytes of an example beyond its content, as an object in an array."""
_LOOKS_UP = 2**14
"""Fields between two checks of the deadline."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 63
_TAGS = 2**32
_MOST_SHOWN = 200
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_INT64, _UINT64 = 2**63, 2**64
_TYPES = {type(None): "Null", str: "String", dict: "Object", list: "Array"}


def read_examples(data: bytes, settings: ServerSettings, deadline: Deadline) -> Array:
    """Return a serialized Input's examples as object[N] of bytes, each after the context.

    The context is simply prepended: two concatenated messages are one with the fields of both.
    Raises InvalidInput, also for an input without examples, InputTooLarge, and DeadlineExceeded.
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
    return _to_array(fields.get(_EXAMPLES, ()), context, settings)


def read_json_examples(
    body: Mapping[str, Any], settings: ServerSettings, deadline: Deadline
) -> Array:
    """Return the examples of a request's JSON, serialized: object[N] of bytes.

    Raises InvalidInput, and DeadlineExceeded.
    """
    context = _serialized(body["context"]) if "context" in body else b""
    if "examples" not in body:
        raise _malformed(
            body, "When method is classify, key 'examples' is expected and was not found"
        )
    rows = body["examples"]
    if isinstance(rows, PackedList):  # long, and without any object
        raise InvalidInput("Example must be JSON object but got a list of other JSON values")
    if not isinstance(rows, list):
        raise _malformed(body, "Expecting 'examples' value to be an list/array")
    if not rows:
        raise _malformed(body, "'examples' value is an empty array")
    _check_count(len(rows), settings)
    messages = []
    for row in rows:
        deadline.require("reading the examples")
        messages.append(_serialized(row))
    return _to_array(messages, context, settings)


def signature_of(body: Mapping[str, Any]) -> str:
    """Return the signature named in the request's JSON, or an empty string. Raises InvalidInput."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise _malformed(
            body, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def fields_of(message: bytes, most: int, deadline: Deadline) -> dict[int, list[bytes]] | None:
    """Return the contents of a serialized message's bytes and message fields, by field number.

    None if it has more than `most` fields of any kind; the rest is not read. Raises InvalidInput if
    it is not a valid message, and DeadlineExceeded.
    """
    fields: dict[int, list[bytes]] = {}
    place = 0
    for index in range(most):
        if place == len(message):
            break
        if index % _LOOKS_UP == 0:
            deadline.require("reading the examples")
        tag, start = _varint(message, place)
        if tag >= _TAGS:  # two parsers could read two different fields here
            raise _not_a_message()
        length, start = _length(message, tag & 7, start)
        place = start + length
        if place > len(message):
            raise _not_a_message()
        if tag & 7 == _BYTES:
            fields.setdefault(tag >> 3, []).append(message[start:place])
    return fields if place == len(message) else None


def _to_array(examples: Sequence[bytes], context: bytes, settings: ServerSettings) -> Array:
    """Return these serialized examples as object[N], each with the context prepended.

    Raises InvalidInput when there are none, and InputTooLarge for more than a batch may have, or if
    repeating the context makes too many bytes.
    """
    if not examples:
        raise InvalidInput("Input is empty.")
    _check_count(len(examples), settings)
    size = sum(map(len, examples)) + len(context) * len(examples)
    if size > settings.max_request_bytes:
        raise InputTooLarge(
            f"{len(examples)} examples with a context of {len(context)} bytes in each are {size} "
            f"bytes; this server takes at most {settings.max_request_bytes} "
            f"({flag_of('max_request_bytes')})",
            hint="send several smaller requests",
        )
    return np.array([*(context + example for example in examples), None], dtype=object)[:-1]


def _check_count(count: int, settings: ServerSettings) -> None:
    """Raise InputTooLarge for more examples than a batch may have."""
    if count > _most_examples(settings):
        raise _too_many(settings)


def _most_examples(settings: ServerSettings) -> int:
    """Return the most examples that a batch, and their objects in the largest request, allow."""
    return min(settings.max_batch_length, settings.max_request_bytes // _OBJECT_BYTES)


def _too_many(settings: ServerSettings) -> InputTooLarge:
    most = _most_examples(settings)
    setting = "max_batch_length" if most == settings.max_batch_length else "max_request_bytes"
    return InputTooLarge(
        f"the input has more than {most} examples, the most that this server takes "
        f"({flag_of(setting)})",
        hint="send several smaller requests",
    )


def _serialized(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise InvalidInput(f"Example must be JSON object but got JSON {_type_of(value)}")
    example = Example()
    for name, content in value.items():
        shown = bounded(name[:_MOST_SHOWN])
        feature = _feature(shown, _values(shown, content))
        example.features.feature[_utf8(name).decode()].CopyFrom(feature)
    data: bytes = example.SerializeToString()
    return data


def _values(name: str, content: Any) -> list[Any]:
    if not isinstance(content, PackedList):
        return content if isinstance(content, list) else [content]
    items = content.items()
    if items is None:
        raise InvalidInput(f"Feature: {name} has element with unexpected JSON type: Array")
    return list(items)


def _feature(name: str, values: list[Any]) -> Feature:
    """Return the values as a list of the one type they share; without values, of no type."""
    items = [_item(name, value) for value in values]
    kind = items[0][0] if items else ""
    if any(other != kind for other, _ in items):
        raise InvalidInput(f"Unexpected element type in feature: {name} expecting type: {kind}")
    feature = Feature()
    if kind:
        getattr(feature, f"{kind}_list").value.extend(item for _, item in items)
    return feature


def _item(name: str, value: Any) -> tuple[str, bytes | int | float]:
    """Return the type of list that a value goes into, and the value in it."""
    if isinstance(value, str):
        return "bytes", _utf8(value)
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        return "bytes", _unescaped(value["b64"])
    if isinstance(value, int) and -_INT64 <= value < _UINT64:
        if value >= _INT64:
            raise InvalidInput(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64", int(value)
    if isinstance(value, int | float):  # JSON numbers without an integer type are floats
        return "float", _float(value)
    raise InvalidInput(f"Feature: {name} has element with unexpected JSON type: {_type_of(value)}")


def _float(value: float) -> float:
    """Return the number if a float32 can approximate it; infinity and NaN stay as they are."""
    if math.isfinite(value) and abs(value) > _LARGEST_FLOAT:
        raise InvalidInput(
            f"Cannot convert JSON value: {_shown(value)} to float without loss of precision."
        )
    return float(value)


def _unescaped(text: str) -> bytes:
    try:
        return from_base64(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("Unable to base64 decode") from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{_shown(text)} has half a character") from error


def _malformed(body: Mapping[str, Any], problem: str) -> InvalidInput:
    return InvalidInput(f"JSON Value: {_shown(body)} {problem}")


def _shown(value: Any) -> str:
    """Return the start of the value's JSON, without serializing more than is shown."""
    text = ""
    for part in json.JSONEncoder(default=_unshown).iterencode(value):
        text += part[:_MOST_SHOWN]
        if len(text) > _MOST_SHOWN:
            return bounded(text[:_MOST_SHOWN]) + "..."
    return bounded(text)


def _unshown(_: PackedList) -> str:
    return "a long list"


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return _TYPES.get(type(value), "Number")


def _length(message: bytes, kind: int, place: int) -> tuple[int, int]:
    """Return the length of a field's content, and where it starts."""
    if kind == _BYTES:
        return _varint(message, place)
    if kind == _VARINT:
        return 0, _varint(message, place)[1]
    if kind in (_FIXED64, _FIXED32):
        return (8 if kind == _FIXED64 else 4), place
    raise _not_a_message()


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the varint at that place, and the place after it."""
    value = shift = 0
    while place < len(message) and shift <= _MAX_VARINT_BITS:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:  # noqa: PLR2004 - the sign bit says that more follows
            return value, place
        shift += 7
    raise _not_a_message()


def _not_a_message() -> InvalidInput:
    return InvalidInput("the input is not a message of examples: it ends early, or is not protobuf")
