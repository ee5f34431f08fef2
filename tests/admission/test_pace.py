"""Estimates that are wrong, and stay wrong: a busy server's own pace corrects them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.estimates import CostKey, Estimates
from mlserve.admission.pace import Pace
from mlserve.admission.replay import Arrival, Call, replay
from mlserve.admission.tickets import Ticket

KIND = CostKey.from_rows("m", 1, "s", 1)
DEMAND, UNTIL = 0.05, 20.0


class Wrong(Estimates):
    """Estimates that learn a part of what calls take, or a multiple."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.wrong_by = factor

    def learn_run(self, answered: Any, ended: Any, seconds: float, now: float, **how: Any) -> None:
        super().learn_run(answered, ended, self.wrong_by * seconds, now, **how)


def arrivals(load: float, seed: int = 0) -> list[Arrival]:
    """Calls at random with a second each; half of the load while the server gets to know them."""
    chance, at, found = Random(seed), 0.0, []
    while at < UNTIL:
        at += chance.expovariate((load if at > 5.0 else 0.5) / DEMAND)
        found.append(Arrival(at, KIND, DEMAND * chance.uniform(0.7, 1.3), 1.0, is_asked=True))
    return found


def useful(calls: list[Call]) -> float:
    """Return the part of the server's time after the first seconds that was of use."""
    ended = (call for call in calls if call.is_answered and 6.0 < call.decided_at <= UNTIL)
    return sum(call.arrival.demand for call in ended) / (UNTIL - 6.0)


@pytest.mark.parametrize("wrong_by", [1 / 3, 3.0])
@pytest.mark.parametrize("load", [1.5, 3.0, 10.0])
def test_estimates_that_stay_wrong_cost_little(wrong_by: float, load: float) -> None:
    """With a third of what calls take, nine in ten were let in to end late."""
    assert useful(replay(arrivals(load), Admission(2, estimates=Wrong(wrong_by)))) > 0.93


def test_right_estimates_are_left_alone() -> None:
    estimates, factors = Estimates(), set[float]()

    class Noting(Pace):
        def end(self, *args: Any, **how: Any) -> None:
            super().end(*args, **how)
            factors.add(estimates.factor)

    admission: Admission[Call] = Admission(2, estimates=estimates)
    admission._pace = Noting(estimates)
    assert useful(replay(arrivals(3.0), admission)) > 0.95
    assert factors == {1.0}


def measured() -> tuple[Pace, Estimates, Ticket]:
    estimates = Estimates()
    estimates.learn(KIND, 0.1, 0.0)
    return Pace(estimates), estimates, Ticket(KIND, 9.0)


def test_a_process_that_stands_still_makes_calls_take_twice_as_long() -> None:
    """Beside the one that stays in its slot, each is charged half of its time."""
    pace, estimates, ticket = measured()
    for number in range(40):
        pace.end(0.2 * number, [ticket], was_full=True, waits=True)
    assert estimates.guess(KIND).mean == pytest.approx(0.2, rel=0.1)
    found = estimates.of(KIND, 8.0, alone=True)
    assert found is not None
    assert found.mean == 0.1, "an idle server is as fast as it was"
    pace.rest()
    assert estimates.guess(KIND).mean == 0.1


@pytest.mark.parametrize("why", ["a slot was free", "nothing waits", "calls wait for a batch"])
def test_time_that_no_call_took_says_nothing(why: str) -> None:
    pace, estimates, ticket = measured()
    for number in range(40):
        was_full, waits = why != "a slot was free", why != "nothing waits"
        pace.end(5.0 * number, [ticket], was_full=was_full, waits=waits)
        if why == "calls wait for a batch":
            pace.pause()
    assert estimates.factor == 1.0


@pytest.mark.parametrize("stall", [1.0, 3.0, 60.0])
def test_one_stall_changes_nothing(stall: float) -> None:
    pace, estimates, ticket = measured()
    now, factors = 0.0, set[float]()
    for number in range(80):
        now += stall if number == 40 else 0.1
        pace.end(now, [ticket], was_full=True, waits=True)
        factors.add(estimates.factor)
    assert factors == {1.0}


def test_nothing_is_scaled_by_more_than_four() -> None:
    pace, estimates, ticket = measured()
    for begin, seconds in ((0.0, 1.0), (1000.0, 0.001)):
        for number in range(200):
            pace.end(begin + seconds * number, [ticket], was_full=True, waits=True)
        assert estimates.factor == pytest.approx(4.0 if seconds == 1.0 else 0.25)
        pace.rest()


def test_what_is_kept_of_many_kinds_stays_small() -> None:
    pace, _, _ = measured()
    for rows in range(2000):
        ticket = Ticket(CostKey("m", 1, "s", rows), 9.0)
        pace.end(0.001 * rows, [ticket], was_full=True, waits=True)
    assert len(pace._counts) < 200


def test_a_server_that_has_room_again_forgets_it_though_it_is_never_idle() -> None:
    estimates = Estimates()
    estimates.learn(KIND, DEMAND, 0.0)
    pace, now = Pace(estimates), 0.0
    ticket = Ticket(KIND, 1e9)
    for _ in range(40):
        now += 2 * DEMAND
        pace.end(now, [ticket], was_full=True, waits=True)
    assert estimates.factor == pytest.approx(2.0, rel=0.1)
    busy_until = now
    while now < busy_until + 2.9:
        pace.end(now, [ticket], was_full=False, waits=False)
        assert estimates.factor > 1.5
        now += DEMAND
    pace.end(busy_until + 3.1, [ticket], was_full=False, waits=False)
    assert estimates.factor == 1.0
