"""The codecs of the Open Inference Protocol, each against its inverse and against wrong data."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlserve.errors import InvalidInput
from mlserve.server.oip import json_body as oip_json
from mlserve.server.oip import tensors as oip_binary
from mlserve.server.oip import tensors as oip_contents
from mlserve.server.tensors import NUMPY
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.proto.inference_pb2 import InferTensorContents

HALVES = oip_contents.RAW_ONLY
DTYPES = [dtype for dtype in DType if dtype.oip_name]
FIXED = [dtype for dtype in DTYPES if dtype is not DType.BYTES]
TYPED = [dtype for dtype in DTYPES if dtype not in HALVES]
HUGE = [10**6, 2**40, 2**62, 2**63 * 2**63]

# The first text that is drawn costs seconds on a busy machine.
patiently = settings(suppress_health_check=[HealthCheck.too_slow])
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
strings = st.binary(max_size=30) | st.text(max_size=8).map(str.encode)


def spec_of(dtype: DType) -> TensorSpec:
    return TensorSpec("x", dtype, None)


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[DType], elements: Any = strings) -> Any:
    """A dtype and an array of it: empty ones, NaN and infinities too."""
    dtype, shape = draw(st.sampled_from(dtypes)), draw(shapes)
    if dtype is DType.BYTES:
        size = math.prod(shape)
        items = draw(st.lists(elements, min_size=size, max_size=size))
        return dtype, np.array([*items, None], dtype=object)[:-1].reshape(shape)
    if dtype is DType.BFLOAT16:
        bits = draw(arrays.arrays(np.uint16, shape))
        return dtype, bits.view(NUMPY[dtype])
    return dtype, draw(arrays.arrays(NUMPY[dtype], shape))


def assert_same(dtype: DType, found: Any, expected: Any) -> None:
    """Equal to the bit, NaN's payload included; JSON keeps no payload: see `assert_equal`."""
    assert found.dtype == NUMPY[dtype]
    assert found.shape == (expected.size,)
    if dtype is DType.BYTES:
        assert found.tolist() == expected.reshape(-1).tolist()
    else:
        assert found.tobytes() == expected.tobytes()


def assert_equal(dtype: DType, found: Any, expected: Any) -> None:
    assert found.dtype == NUMPY[dtype]
    np.testing.assert_array_equal(found, expected.reshape(-1))


@patiently
@given(tensors(DTYPES))
def test_binary_round_trip(tensor: Any) -> None:
    dtype, value = tensor
    data = oip_binary.to_bytes(spec_of(dtype), value)
    assert_same(dtype, oip_binary.from_bytes(spec_of(dtype), value.size, data), value)
    assert_same(dtype, oip_binary.from_bytes(spec_of(dtype), value.size, memoryview(data)), value)


@patiently
@given(tensors(DTYPES), st.integers(0, 300), st.binary(min_size=1, max_size=9))
def test_binary_data_of_another_length(tensor: Any, cut: int, more: bytes) -> None:
    dtype, value = tensor
    data = oip_binary.to_bytes(spec_of(dtype), value)
    for wrong in (data + more, data[: len(data) - 1 - cut % max(len(data), 1)]):
        if len(wrong) == len(data) or (not data and wrong == data):
            continue
        with pytest.raises(InvalidInput, match="input 'x'"):
            oip_binary.from_bytes(spec_of(dtype), value.size, wrong)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.oip_name)
@pytest.mark.parametrize("count", HUGE)
def test_a_huge_shape_without_its_data(dtype: DType, count: int) -> None:
    with pytest.raises(InvalidInput, match="input 'x'"):
        oip_binary.from_bytes(spec_of(dtype), count, b"\1\0\0\0")
    with pytest.raises(InvalidInput, match="input 'x'"):
        oip_contents.from_contents(spec_of(dtype), count, InferTensorContents())
    with pytest.raises(InvalidInput, match="input 'x'"):
        oip_json.from_json(spec_of(dtype), count, shape=(count,), data=[])


@patiently
@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(data: bytes, count: int) -> None:
    try:
        found = oip_binary.from_bytes(spec_of(DType.BYTES), count, data)
    except InvalidInput:
        return
    assert oip_binary.to_bytes(spec_of(DType.BYTES), found) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<I", 5) + b"abcd", "at byte 4, a string of 5 bytes is expected"),
        (struct.pack("<I", 2**32 - 1) + b"abcd", "a string of 4294967295 bytes is expected"),
        (struct.pack("<I", 1) + b"abcd", "at byte 5, 4 bytes of a length are expected"),
        (struct.pack("<II", 0, 0), "2 strings in its data; its shape takes 1 strings"),
        (b"ab", "only 2 bytes of data"),
    ],
)
def test_strings_that_are_cut(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match="input 'x'") as raised:
        oip_binary.from_bytes(spec_of(DType.BYTES), 1, data)
    assert message in raised.value.message


def test_a_boolean_is_zero_or_one() -> None:
    with pytest.raises(InvalidInput, match="neither 0 nor 1"):
        oip_binary.from_bytes(spec_of(DType.BOOL), 3, b"\0\1\2")


def test_a_large_batch_of_strings() -> None:
    value = np.array([str(n).encode() for n in range(200_000)] + [None], dtype=object)[:-1]
    data = oip_binary.to_bytes(spec_of(DType.BYTES), value)
    found = oip_binary.from_bytes(spec_of(DType.BYTES), value.size, data)
    assert found.tolist() == value.tolist()


@patiently
@given(tensors(TYPED))
def test_contents_round_trip(tensor: Any) -> None:
    dtype, value = tensor
    sent = oip_contents.to_contents(spec_of(dtype), value).SerializeToString()
    contents = InferTensorContents.FromString(sent)
    assert_equal(dtype, oip_contents.from_contents(spec_of(dtype), value.size, contents), value)
    with pytest.raises(InvalidInput, match="input 'x'"):
        oip_contents.from_contents(spec_of(dtype), value.size + 1, contents)
    if value.size:
        with pytest.raises(InvalidInput, match="input 'x'"):
            oip_contents.from_contents(spec_of(dtype), value.size - 1, contents)


@pytest.mark.parametrize(
    ("dtype", "contents", "message"),
    [
        (DType.INT8, {"int_contents": [128]}, "a value outside -128 to 127"),
        (DType.UINT16, {"uint_contents": [2**16]}, "a value outside 0 to 65535"),
        (DType.INT8, {"int64_contents": [1]}, "values in int64_contents; INT8 goes into int_con"),
        (DType.FLOAT32, {"fp32_contents": [1], "fp64_contents": [1]}, "values in fp64_contents"),
        (DType.FLOAT16, {"fp32_contents": [1]}, "goes into raw_input_contents only"),
        (DType.BFLOAT16, {}, "goes into raw_input_contents only"),
    ],
)
def test_contents_that_are_refused(dtype: DType, contents: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        oip_contents.from_contents(spec_of(dtype), 1, InferTensorContents(**contents))


@patiently
@given(tensors(TYPED, elements=st.text(max_size=8).map(str.encode)))
def test_json_round_trip(tensor: Any) -> None:
    dtype, value = tensor
    spec = spec_of(dtype)
    flat = json.loads(json.dumps(oip_json.to_json(spec, value)))
    found = oip_json.from_json(spec, value.size, shape=value.shape, data=flat)
    assert_equal(dtype, found, value)
    if dtype is not DType.BYTES:
        nested = np.array(flat, dtype=object).reshape(value.shape).tolist()
        found = oip_json.from_json(spec, value.size, shape=value.shape, data=nested)
        assert_equal(dtype, found, value)
    with pytest.raises(InvalidInput, match="input 'x'"):
        oip_json.from_json(spec, value.size + 1, shape=(value.size + 1,), data=flat)


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        (DType.INT32, (2, 2), [[1, 2, 3, 4]], "is lists of the shape [1, 4]; its shape [2, 2]"),
        (DType.INT32, (4,), [[1, 2], [3, 4]], "is lists of the shape [2, 2]"),
        (DType.INT32, (1,), 5, "is one value"),
        (DType.INT32, (2,), [1, [2]], "not a regular tensor"),
        (DType.INT32, (1,), [1.5], "a number with a fraction"),
        (DType.INT32, (1,), [2**31], "out of range of int32"),
        (DType.INT32, (1,), [True], "a boolean where int32 is expected"),
        (DType.BOOL, (1,), [1], "an integer where bool is expected"),
        (DType.FLOAT32, (1,), [1e39], "out of range of float32"),
        (DType.FLOAT32, (1,), [10**400], "out of range of float32"),
        (DType.FLOAT32, (1,), [None], "null where float32 is expected"),
        (DType.FLOAT16, (1,), [1.0], "has no form in JSON: send it binary"),
        (DType.BFLOAT16, (1,), [1.0], "has no form in JSON: send it binary"),
        (DType.BYTES, (1,), [{"b64": "aGk="}], "must be strings"),
        (DType.BYTES, (1,), [1], "must be strings"),
        (DType.BYTES, (1,), ["\ud800"], "half a character"),
        (DType.INT8, (), {}, "an object where int8 is expected"),
    ],
)
def test_json_that_is_refused(dtype: DType, shape: Any, data: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match="input 'x'") as raised:
        oip_json.from_json(spec_of(dtype), math.prod(shape), shape=shape, data=data)
    assert message in raised.value.message


def test_outputs_that_json_has_no_form_for() -> None:
    with pytest.raises(InvalidInput, match="not UTF-8") as raised:
        oip_json.to_json(spec_of(DType.BYTES), np.array([b"\xff", None], dtype=object)[:-1])
    assert "binary_data" in (raised.value.hint or "")
    for dtype in HALVES:
        with pytest.raises(InvalidInput, match="no form in JSON"):
            oip_json.to_json(spec_of(dtype), np.zeros(1, NUMPY[dtype]))
