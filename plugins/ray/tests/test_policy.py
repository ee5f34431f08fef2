"""How many replicas a load needs: by refusals and waits, not by CPU."""

from __future__ import annotations

import warnings
from inspect import signature
from typing import Any

import pytest
from mlserve_ray.policy import ANSWERED, BUSY, REFUSED, WAIT, replicas_wanted, wanted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of pydantic, about how Ray declares its settings
    from ray.serve._private.common import TimeStampedValue
    from ray.serve.config import AutoscalingContext

pytestmark = pytest.mark.framework


@pytest.mark.parametrize(
    ("refused", "answered", "wait", "busy", "replicas", "number"),
    [
        (0.0, 5.0, 0.0, 0.5, 2, 2),  # it goes well
        (0.0, 0.0, 0.0, 0.0, 4, 1),  # nobody asks
        (10.0, 10.0, 0.0, 1.0, 2, 6),  # half is refused: twice as many, which are busy 70 %
        (9.0, 1.0, 0.0, 0.1, 1, 2),  # a spike that one more answers
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


def _context(
    means: dict[str, float], latest: dict[str, float], *, running: list[str], target: int
) -> AutoscalingContext:
    """What Ray Serve shows when the replica `a` alone has reported."""
    nothing: dict[str, Any] = dict.fromkeys(_PARAMETERS)
    return AutoscalingContext(
        **nothing
        | {
            "running_replicas": running,
            "target_num_replicas": target,
            "aggregated_metrics": {name: {"a": value} for name, value in means.items()},
            "raw_metrics": {
                name: {"a": [TimeStampedValue(1.0, means[name]), TimeStampedValue(2.0, value)]}
                for name, value in latest.items()
            },
        }
    )


_PARAMETERS = list(signature(AutoscalingContext.__init__).parameters)[1:]
_CALM = {REFUSED: 0.0, ANSWERED: 5.0, WAIT: 0.0, BUSY: 0.5}
_FLOOD = {REFUSED: 15.0, ANSWERED: 10.0, WAIT: 1.0, BUSY: 1.0}


@pytest.mark.parametrize(
    ("means", "latest", "running", "target", "number"),
    [
        (_CALM, _FLOOD, ["a"], 1, 4),  # all that a sudden load needs, from the first report on
        (_FLOOD, _CALM, ["a"], 1, 4),  # a lull of a second ends none
        (_CALM, _CALM, ["a"], 1, 1),
        (_CALM, _CALM, ["a", "b"], 3, 3),  # two have not reported yet
        (_CALM, _CALM, ["b"], 2, 2),  # nothing is known of the one that runs
        ({}, {}, ["a"], 2, 2),
    ],
)
def test_replicas_wanted(
    means: dict[str, float],
    latest: dict[str, float],
    running: list[str],
    target: int,
    number: int,
) -> None:
    context = _context(means, latest, running=running, target=target)
    assert replicas_wanted(context) == (number, {})
