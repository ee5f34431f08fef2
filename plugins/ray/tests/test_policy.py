"""How many replicas a load needs: by refusals and waits, not by CPU."""

from __future__ import annotations

import pytest
from mlserve_ray.policy import wanted


@pytest.mark.parametrize(
    ("refused", "answered", "wait", "busy", "replicas", "number"),
    [
        (0.0, 5.0, 0.0, 0.5, 2, 2),  # it goes well
        (0.0, 0.0, 0.0, 0.0, 4, 1),  # nobody asks
        (10.0, 10.0, 0.0, 1.0, 2, 4),  # half is refused: twice as many
        (1.0, 99.0, 0.0, 1.0, 2, 3),
        (5.0, 0.0, 0.0, 0.0, 1, 2),  # everything is refused
        (900.0, 100.0, 0.0, 1.0, 2, 8),  # at most four times as many at a time
        (0.0, 5.0, 2.0, 0.8, 2, 3),  # nothing is refused yet, but requests wait
        (0.0, 5.0, 0.0, 0.95, 2, 3),
        (0.0, 5.0, 0.0, 0.3, 4, 2),
    ],
)
def test_wanted(
    refused: float, answered: float, wait: float, busy: float, replicas: int, number: int
) -> None:
    assert wanted(refused, answered, wait, busy, replicas) == number
