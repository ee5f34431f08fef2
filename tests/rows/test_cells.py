"""Cells as values of each element type: what fits, what is missing, what does not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlserve.errors import shortened
from mlserve.rows.cells import (
    WrongCell,
    is_number_value,
    nested_reader,
    parsed_json,
    text_reader,
    value_reader,
)
from mlserve.tensors import DType


@pytest.mark.parametrize(
    ("cell", "dtype", "value"),
    [
        ("1.5", DType.FLOAT32, 1.5),
        (" -1e3 ", DType.FLOAT64, -1000.0),
        (".5", DType.FLOAT16, 0.5),
        ("inf", DType.FLOAT32, math.inf),
        ("9007199254740994", DType.FLOAT64, 9007199254740994.0),
        ("12345678901234567.5", DType.FLOAT64, 12345678901234568.0),  # a measure, not an id
        ("9007199254740993", DType.FLOAT32, 9007199254740992.0),  # float32 is rounded anyhow
        ("7", DType.INT64, 7),
        ("7.0", DType.INT8, 7),
        ("-128", DType.INT8, -128),
        ("255", DType.UINT8, 255),
        ("True", DType.BOOL, True),
        ("0", DType.BOOL, False),
        ("3.4028235e+38", DType.FLOAT32, 3.4028235e38),  # float32's largest, as it is written
        ("65519", DType.FLOAT16, 65519.0),  # rounds to 65504, the largest
        ("3.38953139e+38", DType.BFLOAT16, 3.38953139e38),
        (" a ", DType.BYTES, " a "),
        ("", DType.BYTES, ""),
    ],
)
def test_text_that_fits(cell: str, dtype: DType, value: Any) -> None:
    found = text_reader(dtype)(cell)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("cell", ["", " ", "NaN", "nan", "NA", "n/a", "null"])
def test_a_missing_number_is_nan(cell: str) -> None:
    assert math.isnan(text_reader(DType.FLOAT32)(cell))


@pytest.mark.parametrize(
    ("cell", "dtype", "why"),
    [
        ("abc", DType.FLOAT32, "'abc' is not a number"),
        ("1_000", DType.FLOAT32, "'1_000' is not a number"),
        ("1,5", DType.FLOAT32, "'1,5' is not a number"),
        ("1e39", DType.FLOAT32, "1e39 is too large for float32"),
        ("3.4028236e+38", DType.FLOAT32, "3.4028236e+38 is too large for float32"),
        ("65520", DType.FLOAT16, "65520 is too large for float16"),
        ("3.397e38", DType.BFLOAT16, "3.397e38 is too large for bfloat16"),
        ("7" * 5000, DType.INT64, f"'{shortened('7' * 5000)}' does not fit int64"),
        (
            "9007199254740993",
            DType.FLOAT64,
            "9007199254740993 is a whole number that float64 cannot hold",
        ),
        ("1e999", DType.FLOAT64, "1e999 is too large for float64"),
        ("", DType.INT64, "it is empty, and int64 has no missing value"),
        ("", DType.BOOL, "it is empty, and bool has no missing value"),
        ("1.5", DType.INT32, "'1.5' is not a whole number"),
        ("128", DType.INT8, "128 does not fit int8, which is -128 to 127"),
        ("-1", DType.UINT64, "-1 does not fit uint64, which is 0 to 18446744073709551615"),
        ("yes", DType.BOOL, "'yes' is not true or false"),
        ("1", DType.COMPLEX64, "'1' cannot be read as complex64; send it with --input"),
    ],
)
def test_text_that_does_not_fit(cell: str, dtype: DType, why: str) -> None:
    with pytest.raises(WrongCell) as wrong:
        text_reader(dtype)(cell)

    assert str(wrong.value) == why


@pytest.mark.parametrize(
    ("value", "dtype", "found"),
    [
        (1, DType.FLOAT32, 1.0),
        ([[1, 2.5], [3, 4]], DType.FLOAT32, [[1.0, 2.5], [3.0, 4.0]]),
        (3.0, DType.INT64, 3),
        (True, DType.BOOL, True),
        (1, DType.BOOL, True),
        ("x", DType.BYTES, "x"),
        (None, DType.BYTES, ""),
        ({"b64": "aGk="}, DType.BYTES, b"hi"),
    ],
)
def test_values_that_fit(value: Any, dtype: DType, found: Any) -> None:
    assert value_reader(dtype)(value) == found


@pytest.mark.parametrize(
    ("value", "dtype", "why"),
    [
        ("1.5", DType.FLOAT32, "'1.5' is a string, not a number"),
        ([1, "2"], DType.FLOAT32, "'2' is a string, not a number"),
        (True, DType.FLOAT32, "true is not a number"),
        ({"a": 1}, DType.FLOAT32, '{"a": 1} is an object, not a number'),
        (10**400, DType.FLOAT64, "is too large for float64"),
        ([2**53, 2**53 + 1], DType.FLOAT64, "a whole number that float64 cannot hold"),
        (1.5, DType.INT64, "1.5 is not a whole number"),
        (9007199254740992.0, DType.INT64, "may have lost digits"),
        (math.nan, DType.INT64, "NaN is not a whole number"),
        (True, DType.INT64, "true is not a whole number"),
        (None, DType.INT64, "it is empty, and int64 has no missing value"),
        (300, DType.UINT8, "300 does not fit uint8, which is 0 to 255"),
        (2, DType.BOOL, "2 is not true or false"),
        (5, DType.BYTES, "5 is not a string"),
        ({"b64": "?"}, DType.BYTES, "its b64 is not base64"),
    ],
)
def test_values_that_do_not_fit(value: Any, dtype: DType, why: str) -> None:
    with pytest.raises(WrongCell) as wrong:
        value_reader(dtype)(value)

    assert why in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "found"), [("[Infinity, -Infinity]", [math.inf, -math.inf]), ("3", 3.0)]
)
def test_json_may_name_infinity(text: str, found: Any) -> None:
    assert value_reader(DType.FLOAT64)(parsed_json(text)) == found


@pytest.mark.parametrize("text", ["1e400", "[1, -1e400]"])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_a_number_of_json_does_not_become_infinity(text: str, dtype: DType) -> None:
    with pytest.raises(WrongCell, match="is too large for"):
        value_reader(dtype)(parsed_json(text))


def test_a_key_of_json_is_not_given_twice() -> None:
    with pytest.raises(ValueError, match="the key 'x' comes twice"):
        parsed_json('{"x": 1, "y": 2, "x": 3}')


def test_numbers_of_numpy_are_numbers() -> None:
    assert all(map(is_number_value, (np.float32(1), np.int64(1), np.uint8(1), 1.5, None)))
    assert not any(map(is_number_value, (np.bool_(1), np.str_("a"), np.ones(2), True, "1")))


def test_a_cell_may_hold_a_json_array() -> None:
    read = nested_reader(DType.FLOAT32)

    assert read("[1, 2]") == [1.0, 2.0]
    assert read("3") == 3.0
    for cell in ("[1, 2", f"[{'7' * 5000}]", '[{"a": 1, "a": 2}]'):
        with pytest.raises(WrongCell, match="is not a JSON array"):
            read(cell)


def test_a_number_with_many_zeros_before_it_is_that_number() -> None:
    """Python reads no more than 4,300 digits as one integer."""
    assert text_reader(DType.FLOAT64)(f"-{'0' * 5000}7") == -7.0
