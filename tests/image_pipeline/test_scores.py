"""Scores that are not finite numbers are never ranked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.errors import InferenceFailed
from mlserve.image_pipeline.steps import activated, require_finite
from mlserve.pipeline import Activation

NAN, INF = np.nan, np.inf


def scores(*rows: list[float]) -> Any:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("activation", "outputs", "said"),
    [
        (Activation.SOFTMAX, scores([1, 2, NAN]), "the image: 3 of 3 scores are NaN"),
        (Activation.SOFTMAX, scores([1, 2, INF]), "the image: 3 of 3 scores are NaN"),
        (Activation.SOFTMAX, scores([-INF, -INF, -INF]), "the image: 3 of 3 scores are NaN"),
        (Activation.IDENTITY, scores([1, NAN, 0]), "the image: 1 of 3 scores are NaN"),
        (Activation.IDENTITY, scores([1, INF, 0]), "the image: 1 of 3 scores are infinite"),
        (Activation.IDENTITY, scores([0, 1, 0], [1, NAN, INF]), "image 1 of 2: 2 of 3 scores are"),
        (Activation.SIGMOID, scores([NAN]), "the image: 2 of 2 scores are NaN"),
        (Activation.COMPLEMENT, scores([1], [NAN]), "image 1 of 2: 2 of 2 scores are NaN"),
    ],
)
def test_scores_that_are_not_finite_are_an_error_that_names_the_image(
    activation: Activation, outputs: Any, said: str
) -> None:
    with pytest.raises(InferenceFailed, match=said):
        require_finite(activated(outputs, activation))


def test_a_class_that_the_model_rules_out_is_no_fault() -> None:
    """A logit of minus infinity is a probability of 0."""
    found = require_finite(activated(scores([0, 0, -INF]), Activation.SOFTMAX))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0]])
    assert require_finite(scores()).shape == (0,)
