"""numpy's arrays as tensors: each element keeps its value, or the array is refused."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mlserve.client.arrays import from_array, to_array
from mlserve.errors import InvalidInput, UsageError
from mlserve.tensors import DType

NAN, INF = np.nan, np.inf


def f32(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


@pytest.fixture(autouse=True)
def strict() -> Any:
    """numpy's warnings are errors: nothing is cast by chance."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        (DType.INT32, np.array([[1, -2]])),
        (DType.INT32, np.array([1.0, -2.0])),
        (DType.UINT8, np.array([255.0], np.float16)),
        (DType.FLOAT64, f32(0.1, NAN, INF)),
        (DType.FLOAT32, np.array([2**24])),
        (DType.FLOAT32, np.array([2**30, -(2**62)])),
        (DType.FLOAT64, np.array([2**62, 2**53])),
        (DType.FLOAT32, np.array([2**63, 0], np.uint64)),
        (DType.BFLOAT16, np.array([-(2**63), 255])),
        (DType.FLOAT16, f32(0.5, NAN, -INF)),
        (DType.BFLOAT16, f32(0.5, NAN, -INF)),
        (DType.BFLOAT16, np.array([1, 256])),
        (DType.FLOAT32, np.array([0.1, NAN], ml_dtypes.bfloat16)),
        (DType.COMPLEX64, np.array([1.0, NAN])),
        (DType.COMPLEX128, np.array([1 + 2j], np.complex64)),
        (DType.INT8, np.array([True, False])),
        (DType.FLOAT32, np.array([True, False])),
        (DType.BOOL, np.array([0.0, 1.0])),
        (DType.FLOAT32, np.array([[1, 2], [3, 4.5]], object)),
        (DType.FLOAT32, np.arange(6.0).reshape(2, 3).T),
        (DType.FLOAT32, np.float32(3)),
        (DType.FLOAT32, np.zeros((0, 3))),
    ],
    ids=str,
)
def test_what_is_kept(dtype: DType, array: Any) -> None:
    tensor = from_array("x", dtype, array)
    found = to_array(tensor)

    assert tensor.dtype is dtype
    assert found.shape == array.shape
    wide = np.complex128 if found.dtype.kind == "c" else np.float64
    np.testing.assert_array_equal(found.astype(wide), array.astype(wide))


def test_float64_is_rounded_where_the_model_takes_float32() -> None:
    found = to_array(from_array("x", DType.FLOAT32, np.array([0.1, NAN, INF, 1e-50])))
    np.testing.assert_array_equal(found, f32(0.1, NAN, INF, 0.0))


@pytest.mark.parametrize(
    ("dtype", "array", "said"),
    [
        (
            DType.FLOAT32,
            np.array([1.0, 1e39]),
            "has 1e+39 at [1], which is out of range of float32",
        ),
        (DType.COMPLEX64, np.array([1e39 + 0j]), "which is out of range of complex64"),
        (DType.FLOAT16, f32(0.1), "float16, which cannot hold 0.10000000149011612 at [0] exactly"),
        (
            DType.BFLOAT16,
            f32(0.1),
            "bfloat16, which cannot hold 0.10000000149011612 at [0] exactly",
        ),
        (DType.FLOAT16, np.array([1e6]), "has 1000000.0 at [0], which is out of range of float16"),
        (DType.FLOAT32, np.array([[1], [2**24 + 1]]), "cannot hold 16777217 at [1, 0] exactly"),
        (DType.FLOAT64, np.array([2**63 - 1]), "cannot hold 9223372036854775807 at [0] exactly"),
        (DType.FLOAT64, np.array([2**64 - 1], np.uint64), "cannot hold 18446744073709551615"),
        (DType.BFLOAT16, np.array([256, 257]), "cannot hold 257 at [1] exactly, only 256.0"),
        (DType.FLOAT16, np.array([2**20]), "has 1048576 at [0], which is out of range of float16"),
        (
            DType.INT32,
            np.array([2**40]),
            "has 1099511627776 at [0], which is out of range of int32",
        ),
        (DType.UINT8, np.array([-1]), "has -1 at [0], which is out of range of uint8"),
        (DType.INT64, np.array([2**64 - 1], np.uint64), "which is out of range of int64"),
        (DType.INT64, np.array([2.0**63]), "which is out of range of int64"),
        (DType.INT64, np.array([-INF]), "has -inf at [0], which is not a whole number"),
        (DType.INT64, np.array([-INF], np.float16), "has -inf at [0], which is not a whole number"),
        (DType.INT32, np.array([NAN]), "has nan at [0], which is not a whole number"),
        (DType.INT32, np.array([1.5]), "has 1.5 at [0], which is not a whole number"),
        (DType.BOOL, np.array([0, 2]), "has 2 at [1], which is neither 0 nor 1"),
        (DType.FLOAT32, np.array([1 + 0j]), "is an array of complex128; the model takes float32"),
        (DType.BYTES, np.array([1]), "is an array of int64; the model takes bytes"),
        (DType.FLOAT32, np.array(["1"]), "has '1' at [0], which is text; the model takes float32"),
        (DType.INT64, np.array(["2026"], "datetime64[ns]"), "is an array of datetime64[ns]"),
        (
            DType.FLOAT32,
            np.array([[1, 2], [3, None]], object),
            "has None at [1, 1], which is no va",
        ),
        (DType.FLOAT32, np.ma.masked_array([1.0, 2.0], [0, 1]), "is a masked array, and 1 of its"),
        (
            DType.FLOAT32,
            np.array([[1], [1, 2], None], object)[:2],
            "has [1] at [0], which is of type",
        ),
        (None, np.array([1], np.longdouble), "which no server takes"),
    ],
)
def test_what_is_refused(dtype: DType | None, array: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_array("x", dtype, array)

    assert caught.value.message.startswith("input 'x' ")
    assert said in caught.value.message
    assert caught.value.hint


def test_a_nan_stays_one_where_only_its_upper_half_is_kept() -> None:
    nan = np.array([0x7F800001], np.uint32).view(np.float32)
    found = to_array(from_array("x", DType.BFLOAT16, nan))
    assert np.isnan(found.astype(np.float32)).all()


def test_strings_are_bytes_in_an_object_array() -> None:
    for array in (np.array(["a", "é"]), np.array(["a", "é".encode()], object)):
        found = to_array(from_array("x", DType.BYTES, array))
        assert (found.dtype, found.tolist()) == (object, [b"a", "é".encode()])


def test_what_is_no_array_is_named() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise TypeError("it lies on a GPU")

    with pytest.raises(
        InvalidInput, match="'x' is a Tensor that numpy cannot read: it lies on a GPU"
    ):
        from_array("x", DType.FLOAT32, Tensor())


def test_bfloat16_needs_ml_dtypes_for_outputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = from_array("x", DType.BFLOAT16, f32(0.5))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert from_array("x", DType.BFLOAT16, f32(0.5)) == tensor
    with pytest.raises(UsageError, match="ml_dtypes adds it, and is not installed") as caught:
        to_array(tensor)
    assert caught.value.hint == "pip install ml_dtypes"
