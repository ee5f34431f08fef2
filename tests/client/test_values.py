"""Python's own values as tensors: exactly, or refused with the place, the value and the reason."""

from __future__ import annotations

import enum
import math
import struct
from decimal import Decimal
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.client.tensor import nested
from mlserve.client.values import tensor_of
from mlserve.errors import InvalidInput
from mlserve.tensors import DType
from mlserve.wire.tensors import pack_numbers, unpack_numbers

NAN, INF = float("nan"), float("inf")
INTEGERS = [dtype for dtype in DType if dtype.label.lstrip("qu").startswith("int")]


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        (DType.FLOAT32, [[1, 2], [3, 4.5]], [[1.0, 2.0], [3.0, 4.5]]),
        (DType.FLOAT32, [True, False], [1.0, 0.0]),
        (DType.FLOAT64, (0.1, INF, -INF), [0.1, INF, -INF]),
        (DType.INT32, [1, 2.0, -0.0, True], [1, 2, 0, 1]),
        (DType.INT64, [2**53 + 1, -(2**63)], [2**53 + 1, -(2**63)]),
        (DType.FLOAT64, [2**53 + 2, -(2**60), 10**22], [2.0**53 + 2, -(2.0**60), 1e22]),
        (DType.UINT64, [2**64 - 1], [2**64 - 1]),
        (DType.BOOL, [True, 0, 1.0], [True, False, True]),
        (DType.COMPLEX64, [1, 2.5, 3j], [1 + 0j, 2.5 + 0j, 3j]),
        (DType.INT8, range(3), [0, 1, 2]),
        (DType.INT8, Colour.RED, 3),
        (DType.FLOAT32, [np.float32(0.5), np.array(2), np.int64(3)], [0.5, 2.0, 3.0]),
        (DType.FLOAT32, [np.array([1, 2]), (3, 4)], [[1.0, 2.0], [3.0, 4.0]]),
        (DType.BYTES, "é", "é".encode()),
        (DType.BYTES, ["a", b"\xff", bytearray(b"c")], [b"a", b"\xff", b"c"]),
        (DType.FLOAT32, [], []),
        (DType.BYTES, [[], []], [[], []]),
    ],
)
def test_what_fits(dtype: DType, value: Any, wanted: Any) -> None:
    tensor = tensor_of("x", dtype, value)
    assert nested(tensor.shape, tensor.elements) == wanted


@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        (
            DType.INT32,
            [1, 2.5],
            "has 2.5 at [1], which is not a whole number; the model takes int32",
        ),
        (DType.INT32, [[1], [NAN]], "has nan at [1, 0], which is not a whole number"),
        (DType.INT32, [INF], "has inf at [0], which is not a whole number"),
        (DType.INT8, [[1, 300]], "has 300 at [0, 1], which is out of range of int8 (-128 to 127)"),
        (DType.UINT8, -1, "has -1, which is out of range of uint8 (0 to 255)"),
        (DType.INT64, [2**63], "has 9223372036854775808 at [0], which is out of range of int64"),
        (DType.INT64, [1e300], "has 1e+300 at [0], which is out of range of int64"),
        (DType.FLOAT32, [1e39], "has 1e+39 at [0], which is out of range of float32"),
        (DType.FLOAT64, [1, 2**53 + 1], "at [1], which float64 cannot hold exactly"),
        (DType.FLOAT64, [10**400], "at [0], which is out of range of float64"),
        (DType.FLOAT32, [10**400], "at [0], which is out of range of float32"),
        (DType.FLOAT32, [10**5000], "has a number of 16610 bits at [0], which is out of range"),
        (DType.FLOAT16, [70000], "has 70000 at [0], which is out of range of float16"),
        (DType.BFLOAT16, [3.4e38], "has 3.4e+38 at [0], which is out of range of bfloat16"),
        (DType.COMPLEX64, [1e39j], "has 1e+39j at [0], which is out of range of complex64"),
        (DType.FLOAT32, ["1"], "has '1' at [0], which is text; the model takes float32"),
        (DType.INT8, [b"1"], "has b'1' at [0], which is bytes; the model takes int8"),
        (DType.FLOAT32, [1, None], "has None at [1], which is no value; the model takes float32"),
        (DType.FLOAT32, [1j], "has 1j at [0], which is a complex number"),
        (DType.BOOL, [2], "has 2 at [0], which is neither 0 nor 1"),
        (DType.BOOL, [NAN], "has nan at [0], which is neither 0 nor 1"),
        (DType.BYTES, [1], "has 1 at [0], which is of type int; the model takes bytes"),
        (DType.BYTES, None, "has None, which is no value"),
        (DType.BYTES, ["\ud800"], "which is half a character"),
        (DType.FLOAT32, [Decimal(1)], "has Decimal('1') at [0], which is of type Decimal"),
        (DType.FLOAT32, {"a": 1}, "has {'a': 1}, which is of type dict"),
        (DType.INT64, [np.datetime64("2026-01-01", "ns")], "which is of type datetime64"),
        (
            DType.FLOAT32,
            [[1], [1, 2]],
            "ragged: the row at [1] has 2 values, and the row at [0] has 1 v",
        ),
        (
            DType.FLOAT32,
            [[[1], [2]], [[1], [2, 3]]],
            "the row at [1, 1] has 2 values, and the row at [0, 0]",
        ),
        (DType.FLOAT32, [[1], 2], "ragged: the row at [1] is 2, and the row at [0] has 1 value"),
        (DType.FLOAT32, [1, [2]], "ragged: the row at [1] has 1 value, and the row at [0] is 1"),
    ],
)
def test_what_does_not_fit(dtype: DType, value: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tensor_of("x", dtype, value)

    assert caught.value.message.startswith("input 'x' ")
    assert said in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 300


def test_a_list_that_contains_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInput, match="more than 64 dimensions"):
        tensor_of("x", DType.INT8, endless)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([1, 2], DType.INT64),
        ([1, 2.5], DType.FLOAT64),
        ([True], DType.BOOL),
        (["a"], DType.BYTES),
        (b"a", DType.BYTES),
        ([1j], DType.COMPLEX128),
        ([], DType.FLOAT64),
    ],
)
def test_the_type_of_values_for_a_server_that_declares_none(value: Any, wanted: DType) -> None:
    assert tensor_of("x", None, value).dtype is wanted
    with pytest.raises(InvalidInput, match="has None at"):
        tensor_of("x", None, [1.0, None])


@given(st.lists(st.floats(width=32)))
def test_bfloat16_is_rounded_as_by_ml_dtypes(numbers: list[float]) -> None:
    with np.errstate(over="ignore"):
        wanted = np.array(numbers, np.float32).astype(ml_dtypes.bfloat16)
    is_too_large = np.isinf(wanted.astype(np.float32)) & np.isfinite(np.array(numbers, np.float32))
    if is_too_large.any():
        with pytest.raises(OverflowError):
            pack_numbers(DType.BFLOAT16, numbers)
        return
    found = unpack_numbers(DType.BFLOAT16, pack_numbers(DType.BFLOAT16, numbers))
    for one, other in zip(found, wanted.astype(np.float32).tolist(), strict=True):
        assert one == other or (math.isnan(one) and math.isnan(other))
        assert math.copysign(1, one) == math.copysign(1, other) or math.isnan(one)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.label)
def test_integers_at_the_edges_of_each_type(dtype: DType) -> None:
    code = (
        np.dtype(dtype.label.lstrip("q")) if dtype.label.startswith("q") else np.dtype(dtype.label)
    )
    low, high = int(np.iinfo(code).min), int(np.iinfo(code).max)
    data = tensor_of("x", dtype, [low, high]).data
    assert np.frombuffer(bytes(data), code).tolist() == [low, high]
    for beyond in (low - 1, high + 1):
        with pytest.raises(InvalidInput, match="out of range"):
            tensor_of("x", dtype, [beyond])


def test_raw_numbers_that_are_cut_off_are_an_error() -> None:
    with pytest.raises(struct.error):
        unpack_numbers(DType.INT32, b"\0\0\0")
