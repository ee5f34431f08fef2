"""Check the bytes of a protobuf message, and estimate its memory, before it is parsed.

protobuf can turn two bytes into an object of a hundred or more, and holds the GIL while it does. So
the bytes are walked first: limited items are counted, and the walk stops at the first limit that is
exceeded. It takes time linear in the number of fields; the content of fields is not inspected. The
format is that of https://protobuf.dev/programming-guides/encoding.

The rules come from the descriptors of our `.proto` files; only exceptions are listed here. Items
are counted over the whole request, however they are nested.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput

MOST_NAMED = 4096
"""Entries of a list or map of messages or strings: inputs, outputs, parameters."""
MOST_SIZES = 65_536
"""Dimensions in the shapes of all tensors together."""
MOST_VALUES = 2**20
"""Strings in tensors, and unpacked numbers: each is a field of its own to walk."""
MOST_VARINTS = 2**24
"""Packed numbers of a varint type; protobuf takes 10 ns for each, holding the GIL."""
MOST_MODELS = 1000
"""Models in a configuration: each is looked up, loaded and watched."""
MOST_TEXT = 2**16
"""Bytes of a name or any other string."""
MOST_PARAMETER = 2**20
"""Bytes of a string parameter: protocol extensions may need long ones."""

PACKED = "packed numbers of tensors"

_TENSORS = ("tensorflow.TensorProto", "inference.InferTensorContents")
"""The messages whose repeated fields are a tensor's values."""
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
"""Per message: its fields in protobuf's arena, and its Python object."""
_STRING_BYTES = 96
"""Per string, besides its bytes: two views of it, as arrays double, and its Python object."""
_ARRAYS = 3
"""protobuf's array of numbers takes up to twice their size as it grows, numpy's once."""

_VARINT, _PACKED = 0, 2
_FORMS = {8: 1, 4: 5}
"""The wire type of fixed-size numbers, by their bytes."""
_F = FieldDescriptor
_FIXED_SIZES = {
    **dict.fromkeys((_F.TYPE_DOUBLE, _F.TYPE_FIXED64, _F.TYPE_SFIXED64), 8),
    **dict.fromkeys((_F.TYPE_FLOAT, _F.TYPE_FIXED32, _F.TYPE_SFIXED32), 4),
}
_NARROW = {
    _F.TYPE_BOOL: 1,
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_UINT32, _F.TYPE_SINT32, _F.TYPE_ENUM), 4),
}

MOST_FIELDS = 2**20
"""Fields of one request, of all kinds; consecutive strings count as a quarter each."""
_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
"""The bytes of a number, by fixed-size wire type."""
_LONGEST_VARINT = 10
_LARGEST_TAG = 2**32 - 1
"""A parser that truncated a larger tag would see a different field than this walk."""
_DEEPEST = 32
"""Levels of nested messages; ours have six."""
_UNKNOWN_BYTES = 48
"""Per unknown field: protobuf keeps those too."""
_PIECE = 2**20
_CONTINUES = 0x80
"""The bit of a varint's byte that means that another byte follows."""
_CONTINUED = bytes(range(_CONTINUES, 0x100))
"""Every byte value of a varint but its last."""
_LOOK_AT_CLOCK = 2**14
"""Fields between two checks of the deadline: about 10 ms."""
_BYTES_A_FIELD = 256
"""Bytes of packed varints that are counted in the time of one field."""
_STRINGS_A_FIELD = 4
"""Consecutive strings that are counted in the time of one field."""

_SMALLER = "send several smaller requests"
_AS_BYTES = "send large tensors as bytes: tensor_content, raw_input_contents"


class Content(Enum):
    """The content of a field."""

    TEXT = auto()
    BYTES = auto()
    MESSAGE = auto()
    FIXED = auto()
    VARINTS = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The limits of one field. `most` is the limit on its items in a request, None without one.

    Rules of the same `name` are counted together: all packed numbers of tensors are one list.
    `width` is the bytes that an item takes in memory, `size` those of a packed number on the wire,
    `longest` the most bytes of a text, and `rules` those of the fields of a nested message.
    """

    name: str
    content: Content
    most: int | None
    width: int
    size: int = 1
    longest: int | None = None
    rules: dict[int, Rule] = field(default_factory=dict)

    def room(self, count: int) -> int:
        """Return how many more items are allowed after `count`."""
        return sys.maxsize if self.most is None else self.most - count


@cache
def rules_of(message: Descriptor) -> dict[int, Rule]:
    """Return the rules of a message's fields, by tag (field number and wire type).

    Singular number fields have no rule.
    """
    rules: dict[int, Rule] = {}
    for item in message.fields:
        rules |= _rules_of(item)
    return rules


def _rules_of(item: FieldDescriptor) -> dict[int, Rule]:
    name, delimited = item.name, item.number << 3 | _PACKED
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
    """Return the rules of repeated numbers, packed and unpacked: protobuf reads both.

    Packed fixed-size numbers in tensors need no limit: reading them is a single copy, and their
    number is bounded by the request's bytes.
    """
    name, packed, tag = item.name, item.number << 3 | _PACKED, item.number << 3
    size, most = _FIXED_SIZES.get(item.type), _most_of(item)
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
    """Return how many items a request may have in that list or map."""
    assert item.containing_type is not None
    is_of_tensor = item.containing_type.full_name in _TENSORS
    return _OTHER_COUNTS.get(item.full_name, MOST_VALUES if is_of_tensor else MOST_NAMED)


class TooManyFields(Exception):
    """The message has more fields than this walk may take."""


class _Broken(Exception):
    """The bytes are not a valid message."""

    def __init__(self, place: int, why: str) -> None:
        super().__init__(f"at byte {place}, {why}")


def estimate(data: bytes, kind: type[Message], deadline: Deadline | None = None) -> int:
    """Return the bytes that the message takes in memory, including the arrays made from it.

    Raises InputTooLarge if anything exceeds its limit, InvalidInput for bytes that are not such a
    message, and DeadlineExceeded.
    """
    try:
        return _Walk(data, MOST_FIELDS, deadline).walk(kind)
    except TooManyFields:
        raise InputTooLarge(
            f"the request has more than {MOST_FIELDS} fields", hint=_SMALLER
        ) from None


def quick_estimate(data: bytes, kind: type[Message], fields: int) -> int:
    """Return the `estimate` of a small message. Raises TooManyFields for more than `fields`."""
    return _Walk(data, fields).walk(kind)


def delimited(data: bytes, number: int) -> tuple[int, int]:
    """Return where the content of the first field with that number begins and ends, or (0, 0).

    For messages serialized by protobuf, and length-delimited fields.
    """
    walk, place = _Walk(data, MOST_FIELDS), 0
    while place < len(data):
        tag, place = walk.varint(place)
        if tag & 7 != _DELIMITED:
            place = walk.past_number(None, tag, place)
            continue
        length, place = walk.varint(place)
        if tag >> 3 == number:
            return place, place + length
        place += length
    return 0, 0


class _Walk:
    """One walk over at most `left` fields of a message."""

    def __init__(self, data: bytes, left: int, deadline: Deadline | None = None) -> None:
        self._data = data
        self._left = left
        self._look_at = left - _LOOK_AT_CLOCK
        self._deadline = deadline
        self._counts: Counter[Rule] = Counter()
        self._named: Counter[str] = Counter()
        self._unknown = 0

    def walk(self, kind: type[Message]) -> int:
        """Return the estimate. Raises what `estimate` and `quick_estimate` raise."""
        try:
            self._walk(rules_of(kind.DESCRIPTOR))
        except (_Broken, IndexError) as error:
            why = "it ends early" if isinstance(error, IndexError) else error
            raise InvalidInput(
                f"the request is not a valid {kind.DESCRIPTOR.full_name}: {why}"
            ) from None
        counted = sum(rule.width * count for rule, count in self._counts.items())
        return len(self._data) + counted + self._unknown * _UNKNOWN_BYTES

    def _walk(self, rules: dict[int, Rule]) -> None:
        place, end = 0, len(self._data)
        outer: list[tuple[dict[int, Rule], int]] = []
        while place < end or outer:
            if place == end:
                rules, end = outer.pop()
                continue
            self._spend(1)
            tag, place = self.varint(place)
            if tag > _LARGEST_TAG:
                raise _Broken(place, "a field's number is too large")
            rule = rules.get(tag)
            if tag & 7 == _DELIMITED:
                length, place = self.varint(place)
                stop = place + length
            else:
                stop = self.past_number(rule, tag, place)
            if stop > end:
                raise _Broken(place, "a field runs over the end")
            if rule is None:
                self._unknown += 1
            elif rule.content is Content.MESSAGE:
                self._count(rule, 1)
                outer.append((rules, end))
                if len(outer) > _DEEPEST:
                    raise _Broken(place, f"messages are nested more than {_DEEPEST} levels deep")
                rules, end = rule.rules, stop
                continue
            elif tag & 7 == _DELIMITED:
                stop = self._take(rule, tag, place, stop, end)
            place = stop

    def _take(self, rule: Rule, tag: int, place: int, stop: int, end: int) -> int:
        """Count the content of a field from `place` to `stop`; return where to continue."""
        length = stop - place
        if rule.content is Content.TEXT:
            self._count(rule, 1)
            if rule.longest is not None and length > rule.longest:
                raise InputTooLarge(
                    f"'{rule.name}' has {length} bytes; a request may have {rule.longest} there"
                )
        elif rule.content is Content.BYTES:
            return self._past_strings(rule, tag, stop, end)
        elif rule.content is Content.VARINTS:
            self._spend(length // _BYTES_A_FIELD)
            for start in range(place, stop, _PIECE):
                piece = self._data[start : min(start + _PIECE, stop)]
                self._count(rule, len(piece.translate(None, _CONTINUED)))
        else:
            self._count(rule, length // rule.size)
        return stop

    def _past_strings(self, rule: Rule, tag: int, stop: int, end: int) -> int:
        """Count the string that ends at `stop`, and those of the same field right after it."""
        data, count = self._data, 1
        most = min(rule.room(self._named[rule.name]), self._left * _STRINGS_A_FIELD)
        while stop < end and data[stop] == tag and count <= most:
            length, start = data[stop + 1], stop + 2
            if length >= _CONTINUES:
                length, start = self.varint(stop + 1)
            if start + length > end:
                raise _Broken(start, "a field runs over the end")
            stop, count = start + length, count + 1
        self._spend(count // _STRINGS_A_FIELD)
        self._count(rule, count)
        return stop

    def past_number(self, rule: Rule | None, tag: int, place: int) -> int:
        """Return where an unpacked number ends; count it if its field has a rule."""
        if rule is not None:
            self._count(rule, 1)
        form = tag & 7
        if form in _FIXED:
            return place + _FIXED[form]
        if form:
            raise _Broken(place, f"a field has the wire type {form}")
        return self.varint(place)[1]

    def varint(self, place: int) -> tuple[int, int]:
        """Return the number at `place`, and where it ends."""
        value = self._data[place]
        if value < _CONTINUES:
            return value, place + 1
        value -= _CONTINUES
        for index in range(1, _LONGEST_VARINT):
            byte = self._data[place + index]
            value |= (byte & ~_CONTINUES) << 7 * index
            if byte < _CONTINUES:
                return value, place + index + 1
        raise _Broken(place, "a number has more than 64 bits")

    def _count(self, rule: Rule, number: int) -> None:
        self._counts[rule] += number
        if rule.most is None:
            return
        self._named[rule.name] += number
        if self._named[rule.name] > rule.most:
            raise InputTooLarge(
                f"the request has more than {rule.most} entries of '{rule.name}' in all",
                hint=_AS_BYTES if rule.name == PACKED else _SMALLER,
            )

    def _spend(self, fields: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise TooManyFields
        if self._left < self._look_at:
            self._look_at = self._left - _LOOK_AT_CLOCK
            if self._deadline is not None:
                self._deadline.require("reading the request")
