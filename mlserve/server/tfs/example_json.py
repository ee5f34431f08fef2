"""Examples in the JSON of TensorFlow Serving's REST API: a feature map each, and one for them all.

    {"examples": [{"x": 1.5, "tags": ["a", {"b64": "..."}]}, ...], "context": {...}}

What a feature may hold, and the words of the refusals, are those of json_tensor.cc. Its messages
repeat whole values; here they are cut.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, bounded
from mlserve.server.codec.json_lists import PackedList
from mlserve.server.tensors import Array
from mlserve.server.tfs import examples
from mlserve.server.tfs.json_words import from_base64
from mlserve.settings import ServerSettings
from mlserve.wire.proto.example_pb2 import Example, Feature

_MOST_SHOWN = 200
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_INT64, _UINT64 = 2**63, 2**64
_TYPES = {type(None): "Null", str: "String", dict: "Object", list: "Array"}


def read_examples(body: Mapping[str, Any], settings: ServerSettings, deadline: Deadline) -> Array:
    """The examples of a request's JSON, serialized: object[N] of bytes.

    Raises InvalidInput, and DeadlineExceeded.
    """
    context = _serialized(body["context"]) if "context" in body else b""
    if "examples" not in body:
        raise _malformed(
            body, "When method is classify, key 'examples' is expected and was not found"
        )
    rows = body["examples"]
    if isinstance(rows, PackedList):  # long, and without an object in it
        raise InvalidInput("Example must be JSON object but got a list of other JSON values")
    if not isinstance(rows, list):
        raise _malformed(body, "Expecting 'examples' value to be an list/array")
    if not rows:
        raise _malformed(body, "'examples' value is an empty array")
    examples.check_count(len(rows), settings)
    messages = []
    for row in rows:
        deadline.require("reading the examples")
        messages.append(_serialized(row))
    return examples.to_array(messages, context, settings)


def signature_of(body: Mapping[str, Any]) -> str:
    """The signature that the request's JSON names, or the empty string. Raises InvalidInput."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise _malformed(
            body, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


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
    """The values as a list of the one type that all of them have; without values, of none."""
    items = [_item(name, value) for value in values]
    kind = items[0][0] if items else ""
    if any(other != kind for other, _ in items):
        raise InvalidInput(f"Unexpected element type in feature: {name} expecting type: {kind}")
    feature = Feature()
    if kind:
        getattr(feature, f"{kind}_list").value.extend(item for _, item in items)
    return feature


def _item(name: str, value: Any) -> tuple[str, bytes | int | float]:
    """The type of list that a value goes into, and the value in it."""
    if isinstance(value, str):
        return "bytes", _utf8(value)
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        return "bytes", _unescaped(value["b64"])
    if isinstance(value, int) and -_INT64 <= value < _UINT64:
        if value >= _INT64:
            raise InvalidInput(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64", int(value)
    if isinstance(value, int | float):  # JSON's numbers without a type of integers are decimals
        return "float", _float(value)
    raise InvalidInput(f"Feature: {name} has element with unexpected JSON type: {_type_of(value)}")


def _float(value: float) -> float:
    """The number, if a float32 can be near it; infinity and NaN are what they are."""
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
    """The start of the value's JSON; no more of it is written than is shown."""
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
