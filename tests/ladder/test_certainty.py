"""Where a label is certain: margins against tolerances, at the bound and beside it."""

from __future__ import annotations

import numpy as np
import pytest

from mlserve.ladder.certainty import are_certain

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "is_certain"),
    [
        ([0.75, 0.25], False),  # the margin is the bound itself
        ([0.76, 0.25], True),
        ([0.25, 0.0, 0.76], True),
        ([0.5, 0.5], False),
        ([NAN, 0.9], False),
        ([INF, INF], False),
        ([INF, 0.0], False),
        ([9.0, 0.0], False),  # no probabilities: the tolerance is a part of the scores
        ([0.9, -9.0], False),
        ([1.2, 0.0], True),  # as far beyond 1 as the tolerance allows
    ],
)
def test_a_margin_must_exceed_twice_the_tolerance(scores: list[float], is_certain: bool) -> None:
    assert are_certain(np.array([scores]), 0.25).tolist() == [is_certain]


def test_no_reference_within_the_tolerance_has_another_label() -> None:
    chance = np.random.default_rng(1)
    reference = chance.dirichlet([0.3] * 4, 5000)
    scores = reference + 0.05 * chance.uniform(-1, 1, reference.shape)
    certain = are_certain(scores, 0.05)
    is_changed = scores.argmax(axis=1) != reference.argmax(axis=1)
    assert is_changed.any()
    assert certain.mean() > 0.5
    assert not (is_changed & certain).any()


def test_no_rows_are_no_answers() -> None:
    assert are_certain(np.empty((0, 3), np.float32), 0.1).shape == (0,)
