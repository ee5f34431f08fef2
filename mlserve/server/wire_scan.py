"""A look at the bytes of a protobuf message before anything is made of them.

protobuf turns two bytes into an object of a hundred and more, and lets no other thread run while it
does. So the bytes are walked first: what counts is counted, and the walk ends with the first limit
that is passed. It takes time linear in the number of fields; what stands in a field is not looked
at. The format is that of https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections import Counter

from google.protobuf.message import Message

from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.server.wire_limits import PACKED, Content, Rule, rules_of

MOST_FIELDS = 2**20
"""Fields of one request, of all kinds, strings in a row as a quarter of them."""
_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
"""Bytes of the wire types of a fixed length."""
_LONGEST_VARINT = 10
_LARGEST_TAG = 2**32 - 1
"""A reader that cut a larger one would see another field than this walk."""
_DEEPEST = 32
"""Levels of messages in each other; ours have six."""
_UNKNOWN_BYTES = 48
"""protobuf keeps a field that it does not know."""
_PIECE = 2**20
_CONTINUES = 0x80
"""The bit of a varint's byte that another one follows."""
_CONTINUED = bytes(range(_CONTINUES, 0x100))
"""Every byte of a varint but its last."""
_LOOK_AT_CLOCK = 2**14
"""Fields between two looks at the deadline: some 10 ms."""
_BYTES_A_FIELD = 256
"""So many bytes of packed varints are counted in the time of one field."""
_STRINGS_A_FIELD = 4
"""So many strings in a row are counted in the time of one field."""

_SMALLER = "send several smaller requests"
_AS_BYTES = "send large tensors as bytes: tensor_content, raw_input_contents"


class Unfinished(Exception):
    """The message has more fields than were to be walked now."""


class _Broken(Exception):
    """The bytes are not a message."""

    def __init__(self, place: int, why: str) -> None:
        super().__init__(f"at byte {place}, {why}")


def estimate(data: bytes, kind: type[Message], deadline: Deadline | None = None) -> int:
    """The bytes that the message takes in memory, with the arrays that are made from it.

    Raises InputTooLarge for more of anything than its limit, InvalidInput for bytes that are not
    such a message, and DeadlineExceeded.
    """
    try:
        return _Walk(data, MOST_FIELDS, deadline).walk(kind)
    except Unfinished:
        raise InputTooLarge(
            f"the request has more than {MOST_FIELDS} fields", hint=_SMALLER
        ) from None


def quick_estimate(data: bytes, kind: type[Message], fields: int) -> int:
    """`estimate` of a message of few fields. Raises Unfinished once so many were walked."""
    return _Walk(data, fields).walk(kind)


def delimited(data: bytes, number: int) -> tuple[int, int]:
    """Where the content of the first field of that number begins and ends; (0, 0) without one.

    For a message that protobuf itself has written, and a field that has a length.
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
    """One walk over the fields of a message, at most `left` of them."""

    def __init__(self, data: bytes, left: int, deadline: Deadline | None = None) -> None:
        self._data = data
        self._left = left
        self._look_at = left - _LOOK_AT_CLOCK
        self._deadline = deadline
        self._counts: Counter[Rule] = Counter()
        self._named: Counter[str] = Counter()
        self._unknown = 0

    def walk(self, kind: type[Message]) -> int:
        """The estimate. Raises what `estimate` and `quick_estimate` raise."""
        try:
            self._walk(rules_of(kind.DESCRIPTOR))
        except (_Broken, IndexError) as error:
            why = "it ends early" if isinstance(error, IndexError) else error
            raise InvalidInput(
                f"the request is not a valid {kind.DESCRIPTOR.full_name}: {why}"
            ) from None
        known = sum(rule.width * count for rule, count in self._counts.items())
        return len(self._data) + known + self._unknown * _UNKNOWN_BYTES

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
        """Counts what stands in a field from `place` to `stop`; returns where to go on."""
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
        """Counts the string that ends at `stop`, and those of the same field right behind it."""
        data, found = self._data, 1
        most = min(rule.room(self._named[rule.name]), self._left * _STRINGS_A_FIELD)
        while stop < end and data[stop] == tag and found <= most:
            length, start = data[stop + 1], stop + 2
            if length >= _CONTINUES:
                length, start = self.varint(stop + 1)
            if start + length > end:
                raise _Broken(start, "a field runs over the end")
            stop, found = start + length, found + 1
        self._spend(found // _STRINGS_A_FIELD)
        self._count(rule, found)
        return stop

    def past_number(self, rule: Rule | None, tag: int, place: int) -> int:
        """Where a number without a length ends; one of a list is counted."""
        if rule is not None:
            self._count(rule, 1)
        form = tag & 7
        if form in _FIXED:
            return place + _FIXED[form]
        if form:
            raise _Broken(place, f"a field has the wire type {form}")
        return self.varint(place)[1]

    def varint(self, place: int) -> tuple[int, int]:
        """The number at that place, and where it ends."""
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
            raise Unfinished
        if self._left < self._look_at:
            self._look_at = self._left - _LOOK_AT_CLOCK
            if self._deadline is not None:
                self._deadline.require("reading the request")
