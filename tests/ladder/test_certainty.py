"""Where a label is certain: margins against tolerances, at the bound and beside it."""

from __future__ import annotations

import numpy as np
import pytest

from mlserve.ladder.certainty import are_certain, two_best

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "is_certain"),
    [
        ([0.75, 0.25], False),  # the margin is the bound itself
        ([0.76, 0.25], True),
        ([0.25, 0.76], True),
        ([0.5, 0.5], False),
        ([NAN, 0.9], False),
        ([INF, INF], False),
    ],
)
def test_a_margin_must_exceed_twice_the_tolerance(scores: list[float], is_certain: bool) -> None:
    best = two_best(np.array([scores]))
    assert are_certain(best, 0.25, are_probabilities=True).tolist() == [is_certain]


def test_other_scores_may_be_off_by_a_part_of_themselves() -> None:
    best = two_best(np.array([[100.0, 97.0], [100.0, 99.0], [-100.0, -97.0], [0.5, 0.4]]))
    assert are_certain(best, 0.01, are_probabilities=False).tolist() == [True, False, True, True]


def test_no_reference_within_the_tolerance_has_another_label() -> None:
    chance = np.random.default_rng(1)
    reference = chance.normal(0, 3, (5000, 4))
    tolerance = 0.05
    off = tolerance * np.maximum(1, np.abs(reference)) * chance.uniform(-1, 1, reference.shape)
    scores = reference + off
    certain = are_certain(two_best(scores), tolerance, are_probabilities=False)
    is_changed = scores.argmax(axis=1) != reference.argmax(axis=1)
    assert is_changed.any()
    assert certain.mean() > 0.5
    assert not (is_changed & certain).any()


def test_nothing_is_certain_with_a_tolerance_of_one() -> None:
    assert not are_certain(np.array([[1e9, 0.0]]), 1.0, are_probabilities=False).any()


def test_no_rows_have_no_best() -> None:
    assert two_best(np.empty((0, 3), np.float32)).shape == (0, 2)
