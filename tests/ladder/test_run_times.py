"""How long a rung is expected to take."""

from __future__ import annotations

import pytest

from mlserve.ladder.run_times import RunTimes


def test_what_was_never_measured_may_be_tried() -> None:
    assert RunTimes().needed(3, 0.0) == 0.0


def test_a_run_needs_its_mean_and_what_it_varies() -> None:
    times = RunTimes()
    for _ in range(50):
        times.note(1, 0.1, 0.0)
    steady = times.needed(1, 0.0)
    assert steady == pytest.approx(0.105)
    for seconds in (0.05, 0.15) * 25:
        times.note(1, seconds, 0.0)
    assert times.needed(1, 0.0) > steady + 0.05


def test_more_rows_take_more_and_fewer_no_less() -> None:
    times = RunTimes()
    times.note(2, 0.1, 0.0)
    assert times.needed(8, 0.0) == pytest.approx(0.405)
    assert times.needed(1, 0.0) == pytest.approx(0.105)


def test_a_load_is_forgotten_as_climbs_that_are_not_tried_are_not_measured() -> None:
    times = RunTimes()
    times.note(1, 0.01, 0.0)
    for _ in range(50):
        times.note(1, 5.0, 1.0)
    assert times.needed(1, 2.0) > 4
    assert times.needed(1, 12.0) == pytest.approx(0.015)
