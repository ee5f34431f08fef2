"""Which answers of a model in another precision count as those of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.same_answers import differing

PRICE = {"id": np.array([7]), "price": np.array([[250.0]])}
CLASS = {"label": np.array([b"cat"], object), "logits": np.array([[4.0, 1.0, 0.5]])}


def _but(answer: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {**answer, **{name: np.asarray(value) for name, value in other.items()}}


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        (PRICE, _but(PRICE, price=[[250.1]]), ""),
        (PRICE, _but(PRICE, price=[[300.0]]), "price differs by 0.2"),
        (PRICE, _but(PRICE, price=[[np.nan]]), "price differs by inf"),
        (PRICE, _but(PRICE, id=[8]), "id is 8, not 7"),
        (CLASS, _but(CLASS, logits=[[3.0, 2.0, 0.5]]), ""),
        ({"scores": np.array([[0.9]])}, {"scores": np.array([[0.1]])}, "scores differs by 0.8"),
        ({"scores": np.array([[0.9, 0.1]])}, {"scores": np.array([[0.6, 0.4]])}, ""),
        (
            {"scores": np.array([[0.9, 0.1]])},
            {"scores": np.array([[0.4, 0.6]])},
            "the best of scores is another",
        ),
        ({"y": np.array([[1.0, 2.0]])}, {"y": np.array([[1.0, 2.5]])}, "y differs by 0.25"),
    ],
)
def test_what_decides(expected: dict[str, Any], found: dict[str, Any], said: str) -> None:
    assert differing(expected, found, 0.01) == said
