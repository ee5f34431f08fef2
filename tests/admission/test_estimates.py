"""What is learnt of how long calls take."""

from __future__ import annotations

import random

import pytest

from mlserve.admission.estimates import CostKey, Estimates, Meter
from tests.harness.admission import KIND


def test_one_stall_does_not_move_an_estimate_far() -> None:
    estimates = Estimates()
    for _ in range(20):
        estimates.learn(KIND, 0.05, 0.0)
    estimates.learn(KIND, 10.0, 0.0)
    assert estimates.guess(KIND).mean < 0.1


def test_one_stall_of_a_full_batch_does_not_either() -> None:
    estimates, kinds = Estimates(), {KIND, CostKey.from_length("m", 1, "s", 64_000)}
    for _ in range(20):
        estimates.learn_run(kinds, set(), 0.05, 0.0)
    estimates.learn_run(kinds, set(), 10.0, 0.0)
    assert [estimates.guess(kind).mean < 0.1 for kind in kinds] == [True, True]
    estimates.learn_run(set(), kinds, 0.01, 0.0)
    assert all(estimates.guess(kind).mean > 0.05 for kind in kinds), "ended early: at least that"


@pytest.mark.parametrize("alone", [True, False])
def test_the_shortest_kind_is_known_also_where_nothing_runs_beside_another(alone: bool) -> None:
    """As on a server of one thread: without it, no call could be refused by its head."""
    estimates, longer = Estimates(), CostKey.from_rows("m", 1, "s", 8)
    estimates.learn(longer, 0.4, 0.0, alone=alone)
    estimates.learn(KIND, 0.05, 0.0, alone=alone)
    assert estimates.least_of("m", 0.0) == KIND
    assert estimates.least_of("other", 0.0) is None


def test_a_call_that_was_ended_early_can_only_raise_an_estimate() -> None:
    estimates = Estimates()
    estimates.learn(KIND, 0.1, 0.0)
    estimates.learn_at_least(KIND, 0.05, 0.0)
    assert estimates.guess(KIND).mean == 0.1
    estimates.learn_at_least(KIND, 0.5, 0.0)
    assert estimates.guess(KIND).mean > 0.1


@pytest.mark.parametrize("alone", [False, True])
def test_calls_whose_deadlines_are_all_too_short_are_hardly_ever_run(alone: bool) -> None:
    """Each run ends early, so nothing is measured but that it takes at least so long."""
    chance, estimates = random.Random(1), Estimates()
    runs, now = 0, 0.0
    while now < 300:
        estimate = estimates.of(KIND, now, alone=True)
        if estimate is None or not estimate.is_sure or estimate.least <= 0.3:
            runs += 1
            now += (took := chance.uniform(0.45, 0.55))
            estimates.learn_run(set(), {KIND}, took, now, alone=alone)
        now += 0.1
    assert 300 / 20 < runs <= 40, "once every ten seconds, until it is faster again"
    assert 0.45 <= estimates.guess(KIND).mean < 0.6


def test_a_model_that_turned_slow_is_soon_known_to_be_too_slow_alone() -> None:
    estimates = Estimates()
    for _ in range(20):
        estimates.learn_run({KIND}, set(), 0.05, 0.0, alone=True)
    for _ in range(60):
        estimates.learn_run(set(), {KIND}, 0.5, 5.0, alone=True)
    found = estimates.of(KIND, 5.0, alone=True)
    assert found is not None
    assert found.least > 0.3


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (16, 16), (17, 32), (1024, 1024)])
def test_large_batches_are_told_apart_by_powers_of_two(rows: int, size: int) -> None:
    assert CostKey.from_rows("m", 1, "s", rows).size == size


def test_the_table_of_estimates_stays_small() -> None:
    estimates = Estimates()
    for version in range(1100):
        estimates.learn(CostKey.from_rows("m", version, "s", 1), 1.0, float(version))
    assert estimates.of(CostKey.from_rows("m", 0, "s", 1), 0.0) is None
    assert estimates.of(CostKey.from_rows("m", 1099, "s", 1), 1099.0) is not None


def test_the_meter_stands_still_while_nothing_runs() -> None:
    meter = Meter()
    meter.change(0.0, 1)
    meter.change(1.0, 0)
    assert meter.show(9.0) == 1.0


def test_a_call_with_much_to_decode_is_of_another_kind() -> None:
    photo, scan = (CostKey.from_rows("m", 1, "s", 1, work) for work in (10_000_000, 300_000_000))
    assert photo == CostKey.from_rows("m", 1, "s", 1)
    assert scan != photo
    estimates = Estimates()
    estimates.learn(scan, 2.0, 0.0)
    assert estimates.of(photo, 0.0) is None
