"""How much of each thing a gRPC request may hold, and what protobuf makes of it in memory.

The fields are read from the descriptors of our `.proto` files; only what differs from the rule of
its kind is listed here. What counts is counted over the whole request, however it is nested.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MOST_NAMED = 4096
"""Entries of a list or a map whose items are objects or texts: inputs, outputs, parameters."""
MOST_SIZES = 65_536
"""Sizes in the shapes of all tensors together."""
MOST_VALUES = 2**20
"""Strings in tensors, and numbers that are not packed: each is a field of its own to walk."""
MOST_VARINTS = 2**24
"""Packed numbers of a varint type. protobuf takes 10 ns for each and lets no other thread run."""
MOST_MODELS = 1000
"""Models of a configuration: each is looked for, loaded and followed."""
MOST_TEXT = 2**16
"""Bytes of a name or any other text."""
MOST_PARAMETER = 2**20
"""Bytes of a parameter that is a text: an extension may mean it."""

PACKED = "packed numbers of tensors"

_TENSORS = ("tensorflow.TensorProto", "inference.InferTensorContents")
"""The messages whose lists are the values of a tensor."""
_OTHER_COUNTS = {
    "tensorflow.TensorShapeProto.dim": MOST_SIZES,
    "inference.ModelInferRequest.InferInputTensor.shape": MOST_SIZES,
    "tensorflow.serving.ModelConfigList.config": MOST_MODELS,
}
_OTHER_LENGTHS = {
    "inference.InferParameter.string_param": MOST_PARAMETER,
    "inference.ModelRepositoryParameter.string_param": MOST_PARAMETER,
}

_MESSAGE_BYTES = 256
"""Of one message: its fields in protobuf's arena, and the Python object that stands for it."""
_STRING_BYTES = 96
"""Of one string beside its bytes: two views of it, as arrays double, and the Python object."""
_ARRAYS = 3
"""protobuf's array of numbers takes up to twice their size as it grows, the numpy array once."""

_VARINT, _DELIMITED = 0, 2
_FORMS = {8: 1, 4: 5}
"""The wire type of a number of so many bytes."""
_F = FieldDescriptor
_FIXED = {
    **dict.fromkeys((_F.TYPE_DOUBLE, _F.TYPE_FIXED64, _F.TYPE_SFIXED64), 8),
    **dict.fromkeys((_F.TYPE_FLOAT, _F.TYPE_FIXED32, _F.TYPE_SFIXED32), 4),
}
_NARROW = {
    _F.TYPE_BOOL: 1,
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_UINT32, _F.TYPE_SINT32, _F.TYPE_ENUM), 4),
}


class Content(Enum):
    """What stands in a field that has a length."""

    TEXT = auto()
    BYTES = auto()
    MESSAGE = auto()
    FIXED = auto()
    VARINTS = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What may stand in one field. `most` is its count in a request; None where it is not counted.

    Rules of the same `name` are counted together: all packed numbers of tensors are one list.
    `width` is the bytes that one item takes in memory, `size` those of a packed number on the wire,
    `longest` the most bytes of a text, `rules` those of a message's own fields.
    """

    name: str
    content: Content
    most: int | None
    width: int
    size: int = 1
    longest: int | None = None
    rules: dict[int, Rule] = field(default_factory=dict)

    def room(self, count: int) -> int:
        """How many more there may be after that many."""
        return sys.maxsize if self.most is None else self.most - count


@cache
def rules_of(message: Descriptor) -> dict[int, Rule]:
    """The rules of a message's fields, by tag: the field's number and its form on the wire.

    A field that is not repeated and holds a number has none.
    """
    rules: dict[int, Rule] = {}
    for item in message.fields:
        rules |= _rules_of(item)
    return rules


def _rules_of(item: FieldDescriptor) -> dict[int, Rule]:
    name, delimited = item.name, item.number << 3 | _DELIMITED
    most = _most_of(item) if item.is_repeated else None
    if item.type == _F.TYPE_MESSAGE:
        assert item.message_type is not None
        nested = rules_of(item.message_type)
        return {delimited: Rule(name, Content.MESSAGE, most, _MESSAGE_BYTES, rules=nested)}
    if item.type == _F.TYPE_STRING:
        longest = _OTHER_LENGTHS.get(item.full_name, MOST_TEXT)
        return {delimited: Rule(name, Content.TEXT, most, _STRING_BYTES, longest=longest)}
    if item.type == _F.TYPE_BYTES:
        return {delimited: Rule(name, Content.BYTES, most, _STRING_BYTES)}
    return _rules_of_numbers(item) if item.is_repeated else {}


def _rules_of_numbers(item: FieldDescriptor) -> dict[int, Rule]:
    """The rules of repeated numbers, packed and one by one: protobuf reads both.

    Packed numbers of a fixed size are one copy, however many, and bounded by the request's bytes.
    """
    name, packed, tag = item.name, item.number << 3 | _DELIMITED, item.number << 3
    size, most = _FIXED.get(item.type), _most_of(item)
    width = (size or _NARROW.get(item.type, 8)) * _ARRAYS
    single = Rule(name, Content.FIXED, most, width)
    is_of_tensor = most == MOST_VALUES
    if size is None:
        many = Rule(name, Content.VARINTS, most, width)
        if is_of_tensor:
            many = Rule(PACKED, Content.VARINTS, MOST_VARINTS, width)
        return {packed: many, tag | _VARINT: single}
    many = Rule(name, Content.FIXED, None if is_of_tensor else most, width, size)
    return {packed: many, tag | _FORMS[size]: single}


def _most_of(item: FieldDescriptor) -> int:
    """How many a request may have in that list, or map."""
    assert item.containing_type is not None
    is_of_tensor = item.containing_type.full_name in _TENSORS
    return _OTHER_COUNTS.get(item.full_name, MOST_VALUES if is_of_tensor else MOST_NAMED)
