"""What becomes of the values that a Python caller gives: the input's type, or an error."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mlserve.asgi.inputs import read_inputs, rows_of, to_array
from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.server.tensors import NUMPY
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec


def _spec(dtype: DType, *shape: int | None) -> TensorSpec:
    return TensorSpec("x", dtype, shape or None)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (DType.FLOAT32, [[1, 2.5]], [[1.0, 2.5]]),
        (DType.FLOAT32, 3, 3.0),
        (DType.FLOAT32, np.array([1, 2], np.int16), [1.0, 2.0]),
        (DType.FLOAT64, np.array([0.5], np.float32), [0.5]),
        (DType.BFLOAT16, [1.5], [1.5]),
        (DType.INT64, [2**62], [2**62]),
        (DType.UINT8, [0, 255], [0, 255]),
        (DType.INT32, [], []),
        (DType.BOOL, [True, False], [True, False]),
        (DType.COMPLEX64, [1 + 2j, 3], [1 + 2j, 3]),
        (DType.FLOAT32, [float("nan"), float("inf")], [float("nan"), float("inf")]),
    ],
)
def test_numbers_that_fit_become_the_inputs_type(dtype: DType, value: Any, expected: Any) -> None:
    array = to_array(_spec(dtype), value)

    assert array.dtype == NUMPY[dtype]
    np.testing.assert_array_equal(array, np.asarray(expected, NUMPY[dtype]))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        (DType.FLOAT32, np.array([0.1]), "is float64, not float32"),
        (DType.INT32, np.array([1], np.int64), "is int64, not int32"),
        (DType.INT32, np.array([1.0], np.float32), "is float32, not int32"),
        (DType.UINT8, np.array([1], np.int8), "is int8, not uint8"),
        (DType.BFLOAT16, np.array([1], np.float32), "is float32, not bfloat16"),
        (DType.INT32, [1.5], "has float64 values, not int32"),
        (DType.INT32, [1.0], "has float64 values, not int32"),
        (DType.INT32, [True], "has bool values, not int32"),
        (DType.FLOAT32, ["1"], "values, not float32"),
        (DType.FLOAT32, [None], "has object values, not float32"),
        (DType.BOOL, [0, 1], "has int64 values, not bool"),
        (DType.UINT8, [256], "out of range of uint8"),
        (DType.UINT8, [-1], "out of range of uint8"),
        (DType.INT64, [2**63], "out of range of int64"),
        (DType.INT64, [2**70], "has object values, not int64"),
        (DType.FLOAT32, [1e39], "out of range of float32"),
        (DType.FLOAT16, [70000], "out of range of float16"),
        (DType.FLOAT32, [[1, 2], [3]], "not a regular array"),
        (DType.FLOAT32, {"a": 1}, "has object values, not float32"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(dtype: DType, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        to_array(_spec(dtype), value)
    assert "'x'" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\0ab\0", b"\0ab\0"),
        ("é", "é".encode()),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ([b"a\0", "b"], [b"a\0", b"b"]),
        ([[b"a"], [b"bc"]], [[b"a"], [b"bc"]]),
        (np.array(["a", "bc"]), [b"a", b"bc"]),
        (np.array([b"a", b"bc"], object), [b"a", b"bc"]),
    ],
)
def test_strings_become_bytes(value: Any, expected: Any) -> None:
    array = to_array(_spec(DType.BYTES), value)

    assert array.dtype == object
    assert array.tolist() == expected


@pytest.mark.parametrize(
    "value",
    [1, [1], [None], [b"a", [b"b"]], [["a"], ["b", "c"]], "\ud800", [bytearray(b"a")]],
)
def test_what_is_no_string_is_an_error(value: Any) -> None:
    with pytest.raises(InvalidInput, match="input 'x'"):
        to_array(_spec(DType.BYTES), value)


def test_names_and_the_length_of_a_batch_are_checked() -> None:
    signature = Signature("s", (_spec(DType.INT32, None),), ())
    settings = ServerSettings(max_batch_length=2)

    assert read_inputs(signature, {"x": [1, 2]}, settings)["x"].tolist() == [1, 2]
    with pytest.raises(InputTooLarge, match="max-batch-length"):
        read_inputs(signature, {"x": [1, 2, 3]}, settings)
    with pytest.raises(InvalidInput, match="not found in signature"):
        read_inputs(signature, {"y": [1]}, settings)


def test_rows_are_seen_without_reading() -> None:
    assert rows_of({"a": [[1, 2]], "b": np.zeros((3, 2))}) == 3
    assert rows_of({"a": b"abc", "b": 1, "c": np.float32(1)}) == 1
    assert rows_of({}) == 1


def test_a_bfloat16_array_is_taken_as_it_is() -> None:
    array = np.array([1, 2], ml_dtypes.bfloat16)

    assert to_array(_spec(DType.BFLOAT16), array) is array
