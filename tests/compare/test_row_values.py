"""When two targets' outputs for a row are equal, and how far apart they are otherwise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlserve.compare.row_values import output_difference, row_differences
from mlserve.errors import DeadlineExceeded, InferenceFailed, InvalidInput, NotAnImage
from mlserve.rows.asking import RowAnswer, RowError
from mlserve.rows.table import Place

PLACE = Place("rows.csv", 3, 4)
F32, F64 = np.float32, np.float64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"yes", b"yes"),
        (np.array([b"a", b"b"], object), np.array([b"a", b"b"], object)),
        (np.int64(2**62 + 1), np.int64(2**62 + 1)),
        (np.int64(7), np.int32(7)),
        (np.array([math.nan, 1.0]), np.array([math.nan, 1.0])),
        (np.array([math.inf, -math.inf]), np.array([math.inf, -math.inf])),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        ([1.5, 2.5], np.array([1.5, 2.5])),
    ],
)
def test_equal_values_are_not_apart(one: Any, other: Any) -> None:
    found = output_difference("y", one, other)

    assert (found.largest, found.mean, found.what) == (0.0, 0.0, "")


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (b"yes", b"no", "y: 'no', the reference 'yes'"),
        (b"a", b"a\0", "y: 'a\\x00', the reference 'a'"),
        (b"\xff", b"\xfe", "y: {'b64': '/g=='}, the reference {'b64': '/w=='}"),
        (
            np.array([b"a", b"b"], object),
            np.array([b"a", b"c"], object),
            "y[1]: 'c', the reference",
        ),
        (np.int64(3), np.int64(4), "y: 4, the reference 3"),
        (np.int64(2**62), np.int64(2**62 + 1), f"y: {2**62 + 1}, the reference {2**62}"),
        (np.int64(-1), np.uint64(2**64 - 1), f"y: {2**64 - 1}, the reference -1"),
        (np.True_, np.False_, "y: False, the reference True"),
        (np.int64(1), b"1", "y: '1', the reference 1"),
        (F32(1), b"1", "y: '1', the reference 1.0"),
        (F64(0.5), F64(math.nan), "y: nan, the reference 0.5"),
        (F64(math.nan), F64(0.5), "y: 0.5, the reference nan"),
        (F64(math.inf), F64(-math.inf), "y: -inf, the reference inf"),
        (F64(1e308), F64(math.inf), "y: inf, the reference 1e+308"),
        (np.zeros(2), np.zeros(3), "y has the shape [3], the reference [2]"),
        (np.zeros((1, 2)), np.zeros(2), "y has the shape [2], the reference [1, 2]"),
        (b"a", np.array([b"a"], object), "y has the shape [1], the reference []"),
    ],
)
def test_what_cannot_be_subtracted_is_infinitely_far(one: Any, other: Any, what: str) -> None:
    found = output_difference("y", one, other)

    assert found.largest == math.inf
    assert found.what.startswith(what)


@pytest.mark.parametrize(
    ("one", "other", "largest", "what"),
    [
        (F64(0.5), F64(0.75), 0.25, "y: 0.75, the reference 0.5 (difference 0.25)"),
        (F64(1.0), F64(1.5), 0.5, "y: 1.5, the reference 1.0 (difference 0.5)"),
        (F64(-200), F64(-201), 0.005, "y: -201.0, the reference -200.0 (relative difference"),
        (F64(0.0), F64(100.0), 100.0, "y: 100.0, the reference 0.0 (difference 100)"),
        (F32(0.1), F64(0.2), 0.1, "y: 0.2, the reference 0.1 (difference 0.1)"),
        (np.int64(2), F64(2.5), 0.25, "y: 2.5, the reference 2 (relative difference 0.25)"),
        (np.complex64(1j), np.complex64(0.5j), 0.5, "y: [0.0, 0.5], the reference [0.0, 1.0]"),
        (np.array([[0, 0.0], [0, 1]]), np.array([[0, 0.5], [0, 1]]), 0.5, "y[0, 1]: 0.5, the"),
    ],
)
def test_floats_are_apart_relative_to_a_reference_above_one(
    one: Any, other: Any, largest: float, what: str
) -> None:
    found = output_difference("y", one, other)

    assert not found.is_exact
    assert found.largest == pytest.approx(largest, rel=1e-6)
    assert found.what.startswith(what)


def test_the_mean_is_over_all_elements() -> None:
    found = output_difference("y", np.array([0.0, 0.0]), np.array([0.5, 0.1]))

    assert (found.largest, found.mean) == (0.5, pytest.approx(0.3))


def _answer(**outputs: Any) -> RowAnswer:
    return RowAnswer(PLACE, outputs, None)  # type: ignore[arg-type]  it is not looked at


def _refused(error: Any) -> RowError:
    return RowError(PLACE, error)


def test_outputs_are_compared_by_name() -> None:
    one, other = _answer(a=F32(1), b=F32(2), c=b"x"), _answer(d=b"x", b=F32(2), a=F32(1))

    found = {item.output: item.what for item in row_differences(one, other)}

    assert found == {
        "a": "",
        "b": "",
        "c": "there is no output 'c', which the reference has",
        "d": "there is an output 'd', which the reference does not have",
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (InvalidInput("column 'a': 'x' is not a number"), InvalidInput("a bad row")),
        (NotAnImage("not an image"), InvalidInput("INVALID_ARGUMENT")),
    ],
)
def test_rows_that_are_refused_alike_agree(one: Any, other: Any) -> None:
    assert list(row_differences(_refused(one), _refused(other))) == []


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (
            _answer(a=F32(1)),
            _refused(InvalidInput("NaN")),
            "invalid_input (NaN), the reference ans",
        ),
        (_refused(InvalidInput("NaN")), _answer(a=F32(1)), "answered, the reference invalid_input"),
        (_answer(a=F32(1)), _refused(InferenceFailed("broken")), "no answer: broken"),
        (
            _refused(DeadlineExceeded("late")),
            _refused(InvalidInput("NaN")),
            "invalid_input (NaN), the reference deadline_exceeded (late)",
        ),
    ],
)
def test_other_errors_disagree(one: Any, other: Any, what: str) -> None:
    (found,) = row_differences(one, other)

    assert found.output is None
    assert found.largest == math.inf
    assert found.what.startswith(what)


def test_a_reference_that_fails_is_a_problem_of_its_own() -> None:
    failed = _refused(InferenceFailed("broken"))

    assert [item.what for item in row_differences(failed, failed)] == ["no answer: broken"]
    refused = _refused(InvalidInput("NaN"))
    assert list(row_differences(refused, refused)) == []
