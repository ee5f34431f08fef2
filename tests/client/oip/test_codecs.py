"""The messages of the protocol: whatever a stranger answers is read, or named as unreadable."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.client.adapter import ImageRequest, ModelRef, Reply, SignatureChoice
from mlserve.client.codecs import MOST_VALUES
from mlserve.client.oip import raw_output, with_classes
from mlserve.client.oip_grpc import OipGrpc
from mlserve.client.oip_rest import OipRest
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor
from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.tensors import pack_string

MODEL = ModelRef("m", None)
NUMBERS = {
    "BOOL": ("?", [True, False]),
    "UINT8": ("B", [0, 255]),
    "UINT16": ("H", [0, 65535]),
    "UINT32": ("I", [0, 2**32 - 1]),
    "UINT64": ("Q", [0, 2**64 - 1]),
    "INT8": ("b", [-128, 127]),
    "INT16": ("h", [-(2**15), 2**15 - 1]),
    "INT32": ("i", [-(2**31), 2**31 - 1]),
    "INT64": ("q", [-(2**63), 2**63 - 1]),
    "FP16": ("e", [0.5, float("-inf")]),
    "FP32": ("f", [0.25, float("inf")]),
    "FP64": ("d", [1e300, -0.1]),
}
DATATYPES = st.sampled_from([*NUMBERS, "BYTES", "BF16", "", "FP8"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.lists(st.binary(), max_size=5))
def test_strings_of_any_bytes(values: list[bytes]) -> None:
    raw = b"".join(pack_string(value) for value in values)
    found = raw_output("x", "BYTES", (len(values),), raw, MOST_VALUES)

    assert found.values == tuple(value.decode(errors="surrogateescape") for value in values)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_of_every_type(datatype: str) -> None:
    code, values = NUMBERS[datatype]
    raw = struct.pack(f"<2{code}", *values)

    assert raw_output("x", datatype, (1, 2), raw, MOST_VALUES).values == tuple(values)
    assert raw_output("x", datatype, (0,), b"", MOST_VALUES).values == ()
    for wrong in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(Unreadable, match="not an output 'x' of"):
            raw_output("x", datatype, (1, 2), wrong, MOST_VALUES)


@pytest.mark.parametrize("raw", [b"\1", b"\5\0\0\0abcd", b"\xff\xff\xff\xff"])
def test_strings_that_are_cut_off(raw: bytes) -> None:
    with pytest.raises(Unreadable, match="cut off"):
        raw_output("x", "BYTES", (1,), raw, MOST_VALUES)


@pytest.mark.parametrize("shape", [(-1,), (10**9,), (2, 10**7)])
def test_a_shape_sizes_no_memory(shape: tuple[int, ...]) -> None:
    with pytest.raises(Unreadable, match="a tensor of shape"):
        raw_output("x", "FP32", shape, b"", MOST_VALUES)


@given(DATATYPES, st.lists(st.integers(-1, 4), max_size=3), st.binary(max_size=40))
def test_any_raw_tensor(datatype: str, shape: list[int], raw: bytes) -> None:
    with suppress(Unreadable):
        raw_output("x", datatype, tuple(shape), raw, MOST_VALUES)


@given(st.binary(max_size=200))
def test_any_message(body: bytes) -> None:
    for read in (OipGrpc().read_answer, OipGrpc().read_versions, OipRest().read_answer):
        with suppress(Unreadable):
            read(Reply(body))


@given(JSON, st.none() | st.integers(0, 50), st.binary(max_size=8))
def test_any_json(outputs: Any, size: int | None, tail: bytes) -> None:
    for name in ("outputs", "inputs", "versions", "parameters"):
        body = json.dumps({"name": "m", name: outputs}).encode() + tail
        reply = Reply(body, {} if size is None else {JSON_LENGTH: str(size)})
        for read in (OipRest().read_answer, OipRest().read_versions):
            with suppress(Unreadable):
                read(reply)
        with suppress(Unreadable):
            OipRest().read_metadata(MODEL, reply)


@pytest.mark.parametrize(
    "output",
    [
        '{"name": "x", "shape": [Infinity], "datatype": "FP32", "data": []}',
        '{"name": "x", "shape": [1], "datatype": "FP32", "data": ' + "[" * 500 + "]" * 500 + "}",
        '{"name": "x", "shape": [1], "datatype": "FP32", "data": [null]}',
        '{"name": "x", "shape": [1], "datatype": "FP32"}',
        "7",
    ],
)
def test_outputs_that_are_none(output: str) -> None:
    body = f'{{"outputs": [{output}]}}'.encode()
    with pytest.raises(Unreadable):
        OipRest().read_answer(Reply(body))


@pytest.mark.parametrize(
    ("body", "is_ready"),
    [
        (b"", True),
        (b'{"name":"false","ready":true}', True),
        (b'{"live":true}', True),
        (b'{"name":"m","ready":false}', False),
    ],
)
def test_ready_by_status_or_by_body(body: bytes, *, is_ready: bool) -> None:
    assert OipRest().read_ready(Reply(body)) is is_ready


def test_a_timeout_longer_than_its_field() -> None:
    plan = SignatureChoice("", "data", (1,))
    for adapter in (OipGrpc(), OipRest()):
        assert adapter.infer_call(MODEL, plan.request(ImageRequest(b"", 1)), 1e30).body


@given(st.lists(st.text(max_size=12) | st.floats(), max_size=4))
def test_any_strings_for_classes(values: list[str | float]) -> None:
    with suppress(Unreadable):
        with_classes({"x": Tensor((len(values),), tuple(values))}, "x")


@given(st.binary(max_size=300), st.sampled_from(["", "top_k"]))
def test_both_forms_ask_the_same(image: bytes, signature: str) -> None:
    plan = SignatureChoice(signature, "data", (1, 1), scores="probs")
    call = OipRest().infer_call(MODEL, plan.request(ImageRequest(image, 3)), 1.5)
    size = int(call.headers["inference-header-content-length"])
    body = call.body or b""
    head = json.loads(body[:size])

    assert body[size:] == pack_string(image)
    assert head["inputs"][0]["parameters"]["binary_data_size"] == len(pack_string(image))
    assert head["inputs"][0]["shape"] == [1, 1]
    assert head["parameters"]["timeout"] == 1_500_000
    assert head["parameters"].get("signature", "") == signature
    assert head["outputs"][0]["parameters"]["classification"] == 3
