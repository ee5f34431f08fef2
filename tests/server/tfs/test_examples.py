"""Examples in messages and in JSON, without a server: what is counted, cut and refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InputTooLarge, InvalidInput
from mlserve.server.codec.rapidjson import parse_body
from mlserve.server.tfs.examples import fields_of, read_examples, read_json_examples
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.wire.proto.example_pb2 import Example
from mlserve.wire.proto.serving_pb2 import Input

# Far enough for a suite of any length: the module is read long before its tests run.
PATIENT = Deadline.after(10**9)
FEW = replace(DEFAULT_SETTINGS, max_batch_length=3)
features = st.dictionaries(st.text(max_size=5), st.lists(st.integers(-(2**63), 2**63 - 1)))


def example(values: dict[str, list[int]]) -> Example:
    made = Example()
    for name, numbers in values.items():
        made.features.feature[name].int64_list.value.extend(numbers)
    return made


@pytest.mark.slow
@given(st.lists(features, min_size=1, max_size=5), st.none() | features)
def test_examples_of_a_message_are_as_protobuf_reads_them(
    rows: list[dict[str, list[int]]], context: dict[str, list[int]] | None
) -> None:
    sent = Input()
    if context is None:
        sent.example_list.examples.extend(map(example, rows))
    else:
        sent.example_list_with_context.examples.extend(map(example, rows))
        sent.example_list_with_context.context.CopyFrom(example(context))
    read = read_examples(sent.SerializeToString(), DEFAULT_SETTINGS, PATIENT)
    expected = [example({**(context or {}), **row}) for row in rows]
    assert (read.dtype, read.shape) == (np.dtype(object), (len(rows),))
    assert [Example.FromString(item) for item in read] == expected


@given(st.binary(max_size=40))
def test_any_bytes_are_examples_or_refused(data: bytes) -> None:
    for read in (lambda: read_examples(data, FEW, PATIENT), lambda: fields_of(data, 5, PATIENT)):
        with suppress(InvalidInput):
            read()


@pytest.mark.parametrize(("count", "is_read"), [(3, True), (4, False)])
def test_no_more_is_read_than_a_batch_may_have(count: int, is_read: bool) -> None:
    sent = Input()
    for _ in range(count):
        sent.example_list.examples.add()
    if is_read:
        assert read_examples(sent.SerializeToString(), FEW, PATIENT).tolist() == [b""] * 3
        return
    with pytest.raises(InputTooLarge, match="more than 3 examples"):
        read_examples(sent.SerializeToString(), FEW, PATIENT)


def test_fields_are_looked_at_up_to_a_number() -> None:
    field = b"\x0a\x01x"
    assert fields_of(field * 4, 4, PATIENT) == {1: [b"x"] * 4}
    assert fields_of(field * 5, 4, PATIENT) is None
    unread = b"\xff"
    assert fields_of(field * 4 + unread, 4, PATIENT) is None
    others = b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x25" + bytes(4)
    assert fields_of(others + field, 4, PATIENT) == {1: [b"x"]}


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05x", b"\x0b", b"\x80" * 20, b"\x0a\xff\xff\xff\xff\xff\x7f"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a message of examples"):
        fields_of(data, 100, PATIENT)


def read_json(body: Any, settings: Any = DEFAULT_SETTINGS) -> list[Example]:
    return [Example.FromString(item) for item in read_json_examples(body, settings, PATIENT)]


def test_numbers_of_json_are_whole_or_decimal() -> None:
    (read,) = read_json(
        {"examples": [{"whole": [-(2**63), True], "decimal": [1.0, 2**64, float("inf")], "no": []}]}
    )
    feature = read.features.feature
    assert feature["whole"].int64_list.value == [-(2**63), 1]
    assert feature["decimal"].float_list.value == [1.0, 2.0**64, float("inf")]
    assert feature["no"].WhichOneof("kind") is None


def test_long_features_are_as_short_ones() -> None:
    def read(row: dict[str, Any]) -> list[bytes]:
        body = parse_body(json.dumps({"examples": [row, {}]}), max_depth=64)
        messages: list[bytes] = read_json_examples(body, DEFAULT_SETTINGS, PATIENT).tolist()
        return messages

    values = {"i": [2**63 - 1] * 50_000, "f": [1.5] * 50_000, "b": ["x"] * 50_000}
    [long, _] = read(values)
    features = Example.FromString(long).features.feature
    assert list(features["i"].int64_list.value) == values["i"]
    assert list(features["f"].float_list.value) == values["f"]
    assert list(features["b"].bytes_list.value) == [b"x"] * 50_000
    for wrong, words in (
        ([1] * 50_000 + [1.5], "Unexpected element type"),
        ([[]] * 99_999, "Array"),
    ):
        with pytest.raises(InvalidInput, match=words):
            read({"x": wrong})
    for rows in ("[" + "1," * 99_999 + "1]", '"' + "x" * 200_000 + '"'):
        body = parse_body(f'{{"examples": {rows}}}', max_depth=64)
        with pytest.raises(InvalidInput, match=r"list") as caught:
            read_json_examples(body, DEFAULT_SETTINGS, PATIENT)
        assert len(caught.value.message) < 1000


def test_a_value_in_a_message_of_ours_is_cut() -> None:
    with pytest.raises(InvalidInput) as refused:
        read_json_examples({"x": "y" * 10_000_000}, DEFAULT_SETTINGS, PATIENT)
    assert refused.value.message.startswith('JSON Value: {"x": "yyy')
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("body", [{"\ud800": 1}, {"x": "\ud800"}])
def test_half_a_character_is_refused(body: Any) -> None:
    with pytest.raises(InvalidInput, match="half a character"):
        read_json_examples({"examples": [body]}, DEFAULT_SETTINGS, PATIENT)


def test_a_context_counts_for_each_example_before_anything_is_copied() -> None:
    small = replace(DEFAULT_SETTINGS, max_request_bytes=10_000)
    body = {"examples": [{}] * 100, "context": {"x": "y" * 200}}
    with pytest.raises(InputTooLarge, match="100 examples with a context of"):
        read_json_examples(body, small, PATIENT)


def test_examples_are_no_longer_read_when_the_deadline_has_passed() -> None:
    over = Deadline.at_most(0, 30)
    field = b"\x0a\x00"
    for read in (
        lambda: fields_of(field * 10, 100, over),
        lambda: read_json_examples({"examples": [{}]}, DEFAULT_SETTINGS, over),
    ):
        with pytest.raises(DeadlineExceeded):
            read()


def test_objects_of_empty_examples_count_where_a_batch_has_no_limit() -> None:
    endless = replace(DEFAULT_SETTINGS, max_batch_length=2**31 - 1, max_request_bytes=6400)
    sent = Input()
    for _ in range(101):
        sent.example_list.examples.add()
    with pytest.raises(InputTooLarge, match="more than 100 examples"):
        read_examples(sent.SerializeToString(), endless, PATIENT)
