from typing import Any

import numpy as np
import pytest

from mlserve.differences import different_output, distances

INF, NAN = np.inf, np.nan


def test_a_distance_is_relative_above_one_and_infinite_if_only_one_is_finite() -> None:
    reference = np.array([0.5, 100.0, NAN, INF, INF, NAN, 1.0], np.float32)
    other = np.array([0.75, 101.0, NAN, INF, -INF, 1.0, INF], np.float64)
    assert distances(reference, other).tolist() == [0.25, 0.01, 0.0, 0.0, INF, INF, INF]
    assert distances(np.array(1.0), np.array(2.0)).tolist() == 1.0


@pytest.mark.parametrize(
    ("found", "differs"),
    [
        ([1.0, np.nan, 1000.5], False),
        ([1.0, np.nan, 1002.0], True),
        ([1.0, 0.0, 1000.0], True),
        ([[1.0, np.nan, 1000.0]], True),
    ],
)
def test_floats_are_compared_within_a_tolerance(found: Any, *, differs: bool) -> None:
    expected = {"y": np.array([1.0, np.nan, 1000.0])}
    assert different_output(expected, {"y": np.array(found)}) == ("y" if differs else None)


def test_all_else_is_compared_exactly() -> None:
    def texts(*values: bytes) -> Any:
        return np.array([*values, None], dtype=object)[:-1]

    assert different_output({"y": texts(b"a", b"b")}, {"y": texts(b"a", b"b")}) is None
    assert different_output({"y": texts(b"a", b"b")}, {"y": texts(b"a", b"c")}) == "y"
    assert different_output({"y": np.array([1, 2])}, {"y": np.array([1, 3])}) == "y"
    assert different_output({"y": np.array([1])}, {"y": np.array([1], np.int32)}) == "y"
