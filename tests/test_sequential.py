"""The test that may be looked at after every event: how often it errs, and how fast it finds."""

from __future__ import annotations

import random
import statistics

import pytest

from mlserve.proportions import wilson
from mlserve.sequential import RiseTest


def events_until(test: RiseTest, share: float, most: int, seed: int) -> int | None:
    """Return how many events it takes until the test finds a rise; None if it finds none."""
    chance = random.Random(seed)
    for count in range(1, most + 1):
        if test.add(chance.random() < share):
            return count
    return None


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_it_errs_at_most_as_often_as_it_may(share: float) -> None:
    """At the share that is just allowed; of 600 runs, 2 % would be 12, and alpha allows 6."""
    runs = [
        events_until(RiseTest(share, alpha=0.01), share, most=2500, seed=run) for run in range(600)
    ]
    assert sum(found is not None for found in runs) <= 6


def test_below_what_is_allowed_it_hardly_ever_errs() -> None:
    runs = [events_until(RiseTest(0.05, 0.01), 0.025, 2500, seed=run) for run in range(300)]
    assert runs.count(None) == 300


@pytest.mark.parametrize(
    ("allowed", "share", "within"),
    [(0.05, 1.0, 8), (0.05, 0.5, 30), (0.05, 0.15, 250), (0.01, 0.05, 600), (0.01, 1.0, 6)],
)
def test_it_finds_a_rise_within_a_known_number_of_events(
    allowed: float, share: float, within: int
) -> None:
    runs = [events_until(RiseTest(allowed, 0.005), share, 20 * within, run) for run in range(200)]
    found = [run for run in runs if run is not None]
    assert len(found) == 200
    assert statistics.quantiles(found, n=20)[-1] <= within


def test_what_is_found_stays_found() -> None:
    test = RiseTest(0.1, 0.01)
    for _ in range(20):
        test.add(True)
    assert test.has_risen
    for _ in range(1000):
        test.add(False)
    assert test.has_risen
    assert (test.hits, test.misses, test.count) == (20, 1000, 1020)


def test_the_ends_of_what_may_be_allowed() -> None:
    everything, nothing = RiseTest(1.0, 0.01), RiseTest(0.0, 0.01)
    assert not any(everything.add(True) for _ in range(1000))
    assert not any(nothing.add(False) for _ in range(1000))
    assert nothing.add(True)


def test_wilsons_interval() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(5, 100)
    assert (round(low, 4), round(high, 4)) == (0.0215, 0.1118)
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
