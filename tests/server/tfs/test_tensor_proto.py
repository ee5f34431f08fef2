"""TensorProto to numpy and back: every dtype, both encodings, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserve.errors import InvalidInput
from mlserve.server.tensors import NUMPY
from mlserve.server.tfs import tensor_proto
from mlserve.server.tfs.tensor_proto import Expansion, from_array
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType
from mlserve.wire.proto.framework_pb2 import TensorProto


def to_array(name: str, proto: TensorProto, room: Expansion | None = None) -> Any:
    return tensor_proto.to_array(name, proto, room or Expansion(DEFAULT_SETTINGS.expanded_bytes))


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = st.sampled_from(list(DType))


@st.composite
def arrays(draw: Any) -> tuple[DType, Any]:
    dtype, shape = draw(DTYPES), draw(SHAPES)
    if dtype is DType.BYTES:
        return dtype, draw(hnp.arrays(object, shape, elements=st.binary(max_size=5)))
    if dtype is DType.BFLOAT16:
        return dtype, draw(hnp.arrays(np.uint16, shape)).view(NUMPY[dtype])
    return dtype, draw(hnp.arrays(NUMPY[dtype], shape))


def same(first: Any, second: Any) -> bool:
    """Equal in dtype, shape and every bit (NaN included)."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return (
        first.tolist() == second.tolist() if first.dtype == object else bits(first) == bits(second)
    )


def bits(array: Any) -> bytes:
    # A float32 NaN travels as a Python float, which may set its quiet bit.
    array = np.ascontiguousarray(array)
    if array.dtype.kind in "fc" and array.dtype.itemsize > 2:
        array = np.where(np.isnan(array), array.dtype.type("nan"), array)
    return array.tobytes()


@given(arrays())
def test_values_round_trip(case: tuple[DType, Any]) -> None:
    dtype, array = case
    proto = from_array(array, dtype)
    assert not proto.tensor_content
    again = TensorProto.FromString(proto.SerializeToString())
    assert same(to_array("x", again), array)


@given(arrays().filter(lambda case: case[0] is not DType.BYTES))
def test_content_is_read(case: tuple[DType, Any]) -> None:
    dtype, array = case
    proto = shaped(dtype, *array.shape)
    proto.tensor_content = array.tobytes()
    assert same(to_array("x", proto), array)


@given(DTYPES, st.integers(1, 3), st.integers(3, 9))
def test_the_last_value_is_repeated(dtype: DType, sent: int, size: int) -> None:
    values: Any = np.arange(sent).astype(NUMPY[dtype])
    if dtype is DType.BYTES:
        values = np.array([b"%d" % n for n in range(sent)] + [None], dtype=object)[:-1]
    proto = from_array(values, dtype)
    proto.tensor_shape.dim[0].size = size
    expected = np.append(values, np.repeat(values[-1:], size - sent))
    assert same(to_array("x", proto), expected)


@given(st.binary(max_size=60))
def test_any_message_is_read_or_refused(data: bytes) -> None:
    proto = TensorProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # noqa: BLE001 - not a message at all
        return
    try:
        to_array("x", proto)
    except InvalidInput as error:
        refusal = error.message
    else:
        refusal = "'x'"
    assert "'x'" in refusal


def shaped(dtype: DType, *sizes: int) -> TensorProto:
    proto = TensorProto(dtype=dtype.tf_name)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (TensorProto(), "dtype 0"),
        (TensorProto(dtype=21), "dtype 21"),
        (shaped(DType.FLOAT32, -1), "negative size"),
    ],
)
def test_a_proto_that_does_not_hold_what_it_says(proto: TensorProto, message: str) -> None:
    assert message in refused(proto)


def refused(proto: TensorProto) -> str:
    with pytest.raises(InvalidInput) as caught:
        to_array("image", proto)
    assert "input 'image'" in caught.value.message
    return caught.value.message


def test_too_many_values() -> None:
    proto = shaped(DType.INT64, 2)
    proto.int64_val.extend([1, 2, 3])
    assert "has 3 values in int64_val; int64[2] takes 2" in refused(proto)


def test_half_a_complex_number() -> None:
    proto = shaped(DType.COMPLEX64, 1)
    proto.scomplex_val.append(1)
    assert "has 1 values in scomplex_val" in refused(proto)


def test_the_values_of_another_type() -> None:
    proto = shaped(DType.FLOAT32, 1)
    proto.double_val.append(1)
    assert "values in double_val; those of float32 are read from float_val" in refused(proto)
    proto.float_val.append(2)
    assert "values in double_val" in refused(proto)


def test_values_beside_content() -> None:
    proto = shaped(DType.FLOAT32, 1)
    proto.tensor_content = bytes(4)
    proto.float_val.append(1)
    assert "values in float_val; those of float32 are read from tensor_content" in refused(proto)


@pytest.mark.parametrize("value", [-129, 128])
def test_a_value_outside_its_type(value: int) -> None:
    proto = shaped(DType.INT8, 1)
    proto.int_val.append(value)
    assert "outside -128 to 127" in refused(proto)


def test_content_of_the_wrong_length() -> None:
    proto = shaped(DType.FLOAT32, 2)
    proto.tensor_content = b"1234567"
    assert "7 bytes of tensor_content; float32[2] takes 8" in refused(proto)


def test_strings_in_content() -> None:
    """As C++ writes them: each length as a varint, then the bytes."""
    proto = shaped(DType.BYTES, 3)
    proto.tensor_content = b"\x02\x00\x81\x01" + b"ab" + b"c" * 129
    assert to_array("x", proto).tolist() == [b"ab", b"", b"c" * 129]


@pytest.mark.parametrize("content", [b"abc", b"\x01", b"\x01ab", b"\xff" * 20, b"\x80"])
def test_content_that_is_not_strings(content: bytes) -> None:
    proto = shaped(DType.BYTES, 1)
    proto.tensor_content = content
    assert "tensor_content that are not 1 strings" in refused(proto)


@pytest.mark.parametrize("dtype", list(DType))
def test_a_tensor_without_values_is_zeros(dtype: DType) -> None:
    array = to_array("x", shaped(dtype, 3))
    expected: Any = [b""] * 3 if dtype is DType.BYTES else [0] * 3
    assert (array.dtype, array.tolist()) == (NUMPY[dtype], expected)
    assert to_array("x", shaped(dtype)).shape == ()


def test_a_boolean_that_is_neither() -> None:
    proto = shaped(DType.BOOL, 1)
    proto.tensor_content = b"\2"
    assert "neither 0 nor 1" in refused(proto)


@pytest.mark.parametrize("dtype", list(DType))
def test_a_huge_shape_is_refused_not_allocated(dtype: DType) -> None:
    proto = from_array(np.array([b"x" if dtype is DType.BYTES else 1], NUMPY[dtype]), dtype)
    proto.tensor_shape.dim[0].size = 2**40
    assert "its shape [1099511627776]" in refused(proto)


def test_sizes_that_overflow_beside_a_zero() -> None:
    assert "impossible shape" in refused(shaped(DType.FLOAT32, 0, 2**62, 2**62))


def test_too_many_dimensions() -> None:
    proto = shaped(DType.FLOAT32, *[1] * 100)
    proto.float_val.append(1)
    assert "impossible shape" in refused(proto)


def test_more_dimensions_than_a_tensor_has() -> None:
    assert "has 255 dimensions; a tensor has at most 254" in refused(shaped(DType.INT8, *[1] * 255))


def test_sizes_whose_product_is_no_number_of_elements() -> None:
    """The product has more digits than Python writes."""
    proto = shaped(DType.INT8, *[2**62] * 254)
    proto.int_val.append(1)
    assert "of more than 2**63 - 1 elements" in refused(proto)


def test_a_string_is_repeated_with_its_bytes() -> None:
    """A runtime makes a copy of each."""
    proto = shaped(DType.BYTES, 100)
    proto.string_val.append(bytes(2**20))
    assert "values are repeated up to 67108864 bytes in a request" in refused(proto)
    proto.string_val[0] = b"small"
    assert to_array("image", proto).tolist() == [b"small"] * 100


def test_all_tensors_of_a_request_share_the_room_to_grow() -> None:
    room = Expansion(100)
    proto = shaped(DType.INT8, 61)
    proto.int_val.append(1)
    assert to_array("image", proto, room).shape == (61,)
    with pytest.raises(InvalidInput, match="values are repeated up to"):
        to_array("image", proto, room)


@pytest.mark.parametrize("dtype", list(DType))
def test_many_values_are_read_as_they_are(dtype: DType) -> None:
    """More than are objects at the same time; the first and the last differ from the others."""
    values = np.zeros(70_000, NUMPY[dtype])
    values[:] = b"x" if dtype is DType.BYTES else 1
    values[0] = values[-1] = b"" if dtype is DType.BYTES else 0
    assert same(to_array("image", from_array(values, dtype)), values)


def test_an_unknown_rank() -> None:
    proto = TensorProto(dtype="DT_FLOAT")
    proto.tensor_shape.unknown_rank = True
    assert "no shape" in refused(proto)
