"""Who wins: what is better beyond the noise, costs little of the other figure, and is measured."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.tune.judge import Figures, Sample, Tried, judge, ranked
from mlserve.tune.preference import Preference

USUAL = [(100.0, 10.0), (102.0, 10.1), (98.0, 9.9)]
"""Measurements of the default: answers/s of many clients, and ms of one. They differ by 4 %."""


def _sample(rate: float, p50: float, memory: int | None = 1000) -> Sample:
    return Sample(Figures(1000 / p50, p50, p50), Figures(rate, p50, p50), memory, 1.0)


def _tried(
    samples: Sequence[tuple[float, float]], threads: int | None = None, memory: int | None = 1000
) -> Tried:
    found = [_sample(rate, p50, memory) for rate, p50 in samples]
    return Tried(LoadOptions(threads=threads), found)


@pytest.mark.parametrize(
    ("samples", "prefer", "wins", "said"),
    [
        ([(120, 10), (121, 10), (119, 10)], "throughput", True, "winner: 20% more answers/s"),
        ([(103, 10), (104, 10), (102, 10)], "throughput", False, "within the noise of 4%"),
        ([(140, 10), (90, 10), (110, 10)], "throughput", False, "within the noise of 45%"),
        ([(80, 5), (80, 5), (80, 5)], "throughput", False, "20% fewer answers/s"),
        ([(120, 15), (120, 15), (120, 15)], "throughput", False, "but 50% more time"),
        ([(120, 10.5), (121, 10.5), (119, 10.5)], "throughput", True, "5% more time"),
        ([(95, 5), (95, 5), (95, 5)], "latency", True, "winner: 50% less time for one client"),
        ([(80, 5), (80, 5), (80, 5)], "latency", False, "but 20% fewer answers/s"),
        ([(200, 9.9), (200, 9.9), (200, 9.9)], "latency", False, "within the noise of 3%"),
        ([(120, 10)], "throughput", False, "when measured once"),
    ],
)
def test_a_candidate_beside_the_default(
    samples: list[tuple[float, float]], prefer: str, wins: bool, said: str
) -> None:
    default, other = _tried(USUAL), _tried(samples, threads=2)

    verdict = judge([default, other], Preference(prefer))

    assert verdict.winner is (other if wins else default)
    assert said in verdict.reasons[1]
    assert bool(verdict.gain) is wins


def test_what_failed_or_was_not_tried_never_wins() -> None:
    failed = _tried([(500, 1)] * 3, threads=2)
    failed.failure = ModelLoadFailed("no room")
    tried = [_tried(USUAL), failed, _tried([], threads=1)]

    verdict = judge(tried, Preference.THROUGHPUT)

    assert verdict.winner is tried[0]
    assert list(verdict.reasons) == [
        "winner: nothing is better beyond the noise",
        "failed: no room",
        "not tried: no time left",
    ]
    assert ranked(tried, Preference.THROUGHPUT) == []


def test_of_two_that_are_alike_the_one_with_less_memory_wins() -> None:
    large = _tried([(150, 10)] * 3, threads=2, memory=4000)
    small = _tried([(148, 10)] * 3, threads=1, memory=1000)

    verdict = judge([_tried(USUAL), large, small], Preference.THROUGHPUT)

    assert verdict.winner is small
    assert verdict.reasons[0] == "default"
    assert verdict.reasons[1] == "50% more answers/s: as good as the winner, with more memory"


def test_a_clearly_faster_one_wins_whatever_its_memory() -> None:
    large = _tried([(200, 10)] * 3, threads=2, memory=4000)
    small = _tried([(148, 10)] * 3, threads=1)

    verdict = judge([_tried(USUAL), large, small], Preference.THROUGHPUT)

    assert verdict.winner is large
    assert verdict.reasons[2] == "48% more answers/s: less than the winner"


def test_the_best_by_one_sample_come_first() -> None:
    slow, good, best, late = (
        _tried([sample], threads=n)
        for n, sample in enumerate([(90, 10), (120, 10), (130, 10), (150, 20)], start=1)
    )

    found = ranked([_tried(USUAL), slow, good, best, late], Preference.THROUGHPUT)

    assert found == [best, good]
