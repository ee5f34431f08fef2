"""Admission by itself, on a simulated clock: nothing waits, and no figure is this machine's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mlserve.admission import forecast
from mlserve.admission.admission import Admission
from mlserve.admission.estimates import CostKey, Estimates, Meter
from mlserve.admission.forecast import Forecast
from mlserve.admission.tickets import Slot, Ticket
from mlserve.admission.verdicts import Refusal

KIND = CostKey.from_rows("m", 1, "serving_default", 1)
SLOTS, QUEUE = 2, 32


@dataclass
class Tally:
    """How the calls of a simulation ended."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    given_up: int = 0
    """Let in and not started: what took longer than estimated left them too little time."""


@dataclass
class Simulation:
    """A server whose runs share it evenly, or do not disturb each other (`is_parallel`)."""

    service: Callable[[], float]
    timeout: Callable[[], float]
    rate: float
    seconds: float = 15.0
    is_parallel: bool = False
    slots: int = SLOTS
    seed: int = 0

    def run(self) -> Tally:
        self.admission = Admission(self.slots, QUEUE)
        self.tally = Tally()
        self.left: dict[int, float] = {}
        self.runs: dict[int, tuple[Slot, Ticket]] = {}
        chance = random.Random(self.seed)
        now, arrival = 0.0, chance.expovariate(self.rate)
        while arrival < self.seconds or self.runs:
            end, key = self.next_end(now)
            step = min(end, arrival if arrival < self.seconds else end)
            self.advance(step - now)
            now = step
            if key is not None and now == end:
                self.finish(now, key)
            else:
                self.arrive(now, self.timeout())
                arrival = now + chance.expovariate(self.rate)
            self.dispatch(now)
        return self.tally

    def speed(self) -> float:
        return 1.0 if self.is_parallel else 1 / max(len(self.runs), 1)

    def next_end(self, now: float) -> tuple[float, int | None]:
        if not self.left:
            return float("inf"), None
        key = min(self.left, key=lambda k: self.left[k])
        return now + self.left[key] / self.speed(), key

    def advance(self, seconds: float) -> None:
        for key in self.left:
            self.left[key] -= seconds * self.speed()

    def arrive(self, now: float, timeout: float) -> None:
        work = Ticket(KIND, now + timeout)
        if self.admission.check(now, work) is None:
            self.admission.enter(work)
        else:
            self.tally.refused += 1

    def dispatch(self, now: float) -> None:
        while self.admission.has_slot() and (work := self.admission.next(now)) is not None:
            if self.admission.judge(now, work) is not None:
                self.admission.leave(work)
                self.tally.given_up += 1
                continue
            run = self.admission.start(now, [work])
            self.left[id(run)] = self.service()
            self.runs[id(run)] = run, work

    def finish(self, now: float, key: int) -> None:
        run, work = self.runs.pop(key)
        del self.left[key]
        self.admission.estimates.learn(work.kind, self.admission.end(now, run), now)
        if now <= work.expires_at:
            self.tally.in_time += 1
        else:
            self.tally.late += 1


def constant(mean: float, chance: random.Random) -> Callable[[], float]:
    return lambda: mean


def noisy(mean: float, chance: random.Random) -> Callable[[], float]:
    return lambda: max(0.3 * mean, chance.gauss(mean, 0.2 * mean))


def bimodal(mean: float, chance: random.Random) -> Callable[[], float]:
    """Three in four take half the mean, the others two and a half times it."""
    return lambda: mean * (0.5 if chance.random() < 0.75 else 2.5)


def simulate(service: Any, mean: float, timeout: Any, **options: Any) -> tuple[float, Tally]:
    """The part of its capacity that a server answers in time at three times its capacity."""
    is_parallel = options.get("is_parallel", False)
    capacity = (SLOTS if is_parallel else 1) / mean
    chance = random.Random(7)
    within = {"fixed": lambda: 1.0, "mixed": lambda: chance.uniform(0.1, 5.0)}[timeout]
    options = {"seconds": max(5.0, 300 * mean), **options}
    simulation = Simulation(service(mean, chance), within, 3 * capacity, **options)
    tally = simulation.run()
    return tally.in_time / (capacity * simulation.seconds), tally


@pytest.mark.server
@pytest.mark.parametrize("is_parallel", [False, True], ids=["shared", "parallel"])
@pytest.mark.parametrize("timeout", ["fixed", "mixed"])
@pytest.mark.parametrize("mean", [0.0057, 0.057, 0.17])
@pytest.mark.parametrize("service", [constant, noisy])
def test_what_is_let_in_ends_in_time_and_the_capacity_is_used(
    service: Any, mean: float, timeout: str, is_parallel: bool
) -> None:
    part, tally = simulate(service, mean, timeout, is_parallel=is_parallel)
    started = tally.in_time + tally.late
    assert part >= 0.95
    assert tally.late <= 0.03 * started
    assert tally.given_up <= 0.1 * started


@pytest.mark.parametrize("timeout", ["fixed", "mixed"])
def test_service_times_of_two_kinds_cost_little_of_the_capacity(timeout: str) -> None:
    part, tally = simulate(bimodal, 0.057, timeout)
    assert part >= 0.93
    assert tally.late <= 0.03 * tally.in_time


def test_the_first_second_is_not_lost_on_calls_that_end_late() -> None:
    """Nothing is known at the start, so all are let in; the first ends set that right."""
    part, _ = simulate(constant, 0.17, "fixed", seconds=3.0)
    assert part >= 0.9


def known(admission: Admission, seconds: float, kind: CostKey = KIND) -> Admission:
    """The same with an estimate that is sure."""
    for _ in range(3):
        admission.estimates.learn(kind, seconds, 0.0)
    return admission


def enter(admission: Admission, *deadlines: float) -> list[Ticket]:
    works = [Ticket(KIND, deadline) for deadline in deadlines]
    for work in works:
        admission.enter(work)
    return works


def why(admission: Admission, deadline: float, now: float = 0.0) -> Refusal | None:
    verdict = admission.check(now, Ticket(KIND, deadline))
    return None if verdict is None else verdict.why


def test_of_what_nothing_is_known_is_let_in_until_the_queue_is_full() -> None:
    admission = Admission(1, 2)
    admission.start(0.0, enter(admission, 1.0))
    enter(admission, 1.0)
    assert why(admission, 0.01) is None
    enter(admission, 1.0)
    assert why(admission, 1.0) is Refusal.QUEUE_FULL


def test_a_call_that_would_be_late_is_told_when_to_come_back() -> None:
    admission = known(Admission(1, 32), 0.1)
    admission.start(0.0, enter(admission, 9.0))
    enter(admission, 1.0, 1.0, 1.0)
    verdict = admission.check(0.0, Ticket(KIND, 0.35))
    assert verdict is None, "it is due before the others, which can spare the time"
    verdict = admission.check(0.0, Ticket(KIND, 0.15))
    assert verdict is not None
    assert verdict.why is Refusal.DEADLINE
    assert verdict.seconds == pytest.approx(0.2 * 1.02 + 0.005 - 0.15, abs=0.001)
    assert admission.check(verdict.seconds, Ticket(KIND, verdict.seconds + 0.15)) is None


def test_nobody_who_is_let_in_is_made_late_by_a_shorter_deadline() -> None:
    admission = known(Admission(1, 32), 0.1)
    admission.start(0.0, enter(admission, 9.0))
    enter(admission, 0.21)
    assert why(admission, 0.205) is Refusal.DEADLINE
    assert why(admission, 0.5) is None


def test_the_queue_is_in_the_order_of_the_deadlines() -> None:
    admission = Admission(1, 32)
    last, first, middle = enter(admission, 3.0, 1.0, 2.0)
    assert list(admission.waiting) == [first, middle, last]
    assert admission.leave(middle)
    assert not admission.leave(middle)
    assert list(admission.waiting) == [first, last]


def test_what_no_idle_server_could_do_is_said_at_once() -> None:
    admission = known(Admission(1, 32), 0.5)
    verdict = admission.check(0.0, Ticket(KIND, 0.2))
    assert verdict is not None
    assert (verdict.why, verdict.seconds) == (Refusal.TOO_SLOW, 0.5)
    assert why(admission, 0.6) is None


def test_a_wrong_estimate_shuts_nobody_out_for_ever() -> None:
    admission = known(Admission(1, 32), 0.5)
    assert why(admission, 9.2, now=9.0) is Refusal.TOO_SLOW
    assert why(admission, 10.7, now=10.5) is None, "it was not confirmed for ten seconds"
    admission.estimates.learn(KIND, 0.1, 10.6)
    assert admission.estimates.guess(KIND).mean == 0.1


def test_one_slow_call_is_not_enough_to_refuse_on_an_idle_server() -> None:
    admission = Admission(1, 32)
    admission.estimates.learn(KIND, 2.0, 0.0)
    assert why(admission, 1.0) is None


def test_what_cannot_end_in_time_any_more_is_not_started() -> None:
    admission = known(Admission(1, 32), 0.1)
    late, _ = enter(admission, 1.0, 1.0)
    assert admission.judge(0.5, late) is None
    verdict = admission.judge(0.95, late)
    assert verdict is not None
    assert verdict.why is Refusal.DISPLACED
    expired = admission.judge(1.0, late)
    assert expired is not None
    assert expired.why is Refusal.EXPIRED


def test_demand_is_the_share_of_what_ran_at_the_same_time() -> None:
    admission = Admission(2, 32)
    first, second = enter(admission, 9.0, 9.0)
    run = admission.start(0.0, [first])
    other = admission.start(1.0, [second])
    assert admission.end(3.0, run) == pytest.approx(2.0)
    assert admission.end(4.0, other) == pytest.approx(2.0)


def test_a_batch_shares_its_demand_among_its_calls() -> None:
    admission = Admission(1, 32, max_batch=4)
    run = admission.start(0.0, enter(admission, 9.0, 9.0))
    assert admission.end(1.0, run) == pytest.approx(0.5)
    assert not admission.running


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


@pytest.mark.parametrize("waiting", [0, 3, 60])
def test_a_head_is_not_refused_as_too_slow(waiting: int) -> None:
    """It may be of a signature that has never run, and is faster than those that have."""
    admission = known(Admission(2), 1.2)
    for calls in [enter(admission, 900.0) for _ in range(min(waiting, 2))]:
        admission.start(0.0, calls)
    enter(admission, *[900.0] * (waiting - 2))
    assert admission.check_head(0.0, Ticket(KIND, 1.0)) is None
    assert why(admission, 1.0) is Refusal.TOO_SLOW, "once it is read, and of that kind"


def test_a_head_behind_a_queue_is_refused_for_its_deadline_and_a_full_one_for_any() -> None:
    admission = known(Admission(1, 30), 0.1)
    admission.start(0.0, enter(admission, 9.0))
    enter(admission, *[1.9] * 20)
    verdict = admission.check_head(0.0, Ticket(KIND, 2.0))
    assert verdict is not None
    assert verdict.why is Refusal.DEADLINE
    enter(admission, *[90.0] * 10)
    full = admission.check_head(0.0, Ticket(KIND, 0.01))
    assert full is not None
    assert full.why is Refusal.QUEUE_FULL


def test_slots_are_shared_by_batches_not_by_calls() -> None:
    """33 calls fill two of sixteen slots: 0.32 s of demand take 0.64 s, not 5 s."""
    admission = known(Admission(16, 64, max_batch=32), 0.01)
    enter(admission, *[9.0] * 32)
    assert why(admission, 9.5) is None
    enter(admission, *[1.5] * 32)
    assert why(admission, 2.0) is None


def test_a_batch_is_not_as_long_as_its_calls_one_by_one() -> None:
    """40 ms and 1.5 ms for each call: alone 41.5 ms, 32 together 88 ms."""
    admission = known(Admission(16, 256, max_batch=32), 0.0415)
    estimates = admission.estimates
    for calls in (1, 32):
        for _ in range(5):
            seconds = (0.04 + 0.0015 * calls) / calls
            estimates.learn_run({KIND}, set(), seconds, 0.0, together=calls)
    assert estimates.guess_in_batch(KIND, 32).mean == pytest.approx(0.00275)
    assert estimates.guess_in_batch(KIND, 1).mean == pytest.approx(0.0415)
    assert estimates.guess_in_batch(KIND, 16).mean == pytest.approx(0.0055), "no more than 32 take"
    assert estimates.guess_in_batch(KIND, 2).mean == pytest.approx(0.0415), "as if alone"
    assert estimates.guess_in_batch(KIND, 64).mean == pytest.approx(0.00275)
    enter(admission, *[9.0] * 63)
    assert why(admission, 9.5) is None
    assert why(admission, 1.0) is None, "behind nobody, among 64 that take 0.2 s"


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


OTHER = CostKey.from_rows("other", 1, "serving_default", 1)


def verdict_of(admission: Admission, kind: CostKey, deadline: float) -> Refusal | None:
    verdict = admission.check(0.0, Ticket(kind, deadline))
    return None if verdict is None else verdict.why


def test_a_model_of_a_width_leaves_the_other_slots_to_other_models() -> None:
    """Calls of a second each wait one after another, and the other slot is free at once."""
    admission = known(known(Admission(2, 32), 1.0), 0.1, OTHER)
    calls: list[Ticket] = []
    while admission.check(0.0, Ticket(KIND, 9.0, width=1)) is None:
        calls.append(Ticket(KIND, 9.0, width=1))
        admission.enter(calls[-1])
        if len(calls) == 1:
            assert not admission.is_full(calls[0])
            admission.start(0.0, calls[:1])

    assert len(calls) == 8, "in nine seconds, with the drift"
    assert admission.is_full(calls[1])
    assert admission.has_slot(), "which is not for this model"
    assert verdict_of(admission, OTHER, 9.5) is None, "though it is due after all of them"


def test_a_width_of_all_slots_changes_nothing() -> None:
    answers = []
    for width in (None, 2):
        admission = known(Admission(2, 32), 0.5)
        for _ in range(4):
            admission.enter(Ticket(KIND, 2.6, width=width))
        for _ in range(2):
            admission.start(0.0, admission.waiting.line[:1])
        calls = [Ticket(KIND, deadline / 10, width=width) for deadline in range(40)]
        answers.append([admission.check(0.0, call) for call in calls])
    assert answers[0] == answers[1]
    assert None in answers[0]


def test_a_server_of_one_model_has_every_place_for_it() -> None:
    admission = Admission(1, 8)
    admission.start(0.0, enter(admission, 99.0))
    enter(admission, *[99.0] * 7)
    assert verdict_of(admission, KIND, 99.0) is None


def test_a_call_gets_all_threads_alone_and_its_share_beside_others() -> None:
    admission = Admission[Ticket](12, QUEUE)
    tickets = [Ticket(KIND, 10.0 + n) for n in range(6)]
    admission.enter(tickets[0])
    alone = admission.start(0.0, tickets[:1])
    assert alone.threads == 12
    for ticket in tickets[1:4]:
        admission.enter(ticket)
    beside = [admission.start(0.1, [ticket]) for ticket in tickets[1:4]]
    assert [slot.threads for slot in beside] == [3, 3, 3]  # for each, all four are there
    for slot in (alone, *beside):
        admission.end(0.2, slot)
    admission.enter(tickets[4])
    assert admission.start(0.3, tickets[4:5]).threads == 12


def test_more_calls_than_slots_get_one_thread_each() -> None:
    admission = Admission[Ticket](SLOTS, QUEUE)
    tickets = [Ticket(KIND, 10.0 + n) for n in range(9)]
    for ticket in tickets:
        admission.enter(ticket)
    assert [admission.start(0.0, [ticket]).threads for ticket in tickets[:SLOTS]] == [1, 1]


def test_calls_that_wait_for_their_batch_share_its_thread() -> None:
    admission = Admission[Ticket](8, QUEUE, max_batch=4)
    tickets = [Ticket(KIND, 10.0 + n) for n in range(8)]
    for ticket in tickets:
        admission.enter(ticket)
    assert admission.start(0.0, tickets[:4]).threads == 4


@pytest.mark.parametrize("width", [None, 1, 3, 4, 9])
def test_a_long_queue_of_one_model_is_not_walked_through_whatever_its_width(
    monkeypatch: pytest.MonkeyPatch, width: int | None
) -> None:
    """A walk of a hundred calls takes longer than ten refusals; it comes to the same."""

    def latest(most: int) -> list[float | None]:
        monkeypatch.setattr(forecast, "_MANY", most)
        admission = known(Admission(4), 0.01)
        for _ in range(4 if width is None else min(4, width)):
            admission.enter(ticket := Ticket(KIND, 9.0, width=width))
            admission.start(0.0, [ticket])
        for _ in range(100):
            admission.enter(Ticket(KIND, 0.4, width=width))
        found = (
            admission.forecast.overrun(0.0, admission.waiting, Ticket(KIND, due, width=width))
            for due in (9.0, 0.6, 0.5)
        )
        return [None if late is None else late.seconds for late in found]

    walked = latest(10_000)
    monkeypatch.setattr(Forecast, "_ends", None)
    assert latest(32) == [late and pytest.approx(late, rel=0.05) for late in walked]
    assert walked[0] is None
    assert None not in walked[-2:]


def test_a_long_queue_of_models_of_other_widths_is_walked_through() -> None:
    other = CostKey.from_rows("other", 1, "s", 1)
    admission = known(known(Admission(4), 0.01), 0.01, other)
    for _ in range(60):
        admission.enter(Ticket(KIND, 0.2, width=1))
        admission.enter(Ticket(other, 0.2))
    narrow = admission.forecast.overrun(0.0, admission.waiting, Ticket(KIND, 9.0, width=1))
    late = admission.forecast.overrun(0.0, admission.waiting, Ticket(KIND, 0.3, width=1))
    assert (narrow, late is None) == (None, False)


def test_who_waits_for_the_width_of_a_model_takes_no_threads() -> None:
    admission = Admission[Ticket](4, QUEUE)
    narrow = CostKey.from_rows("narrow", 1, "serving_default", 1)
    tickets = [Ticket(narrow, 10.0 + n, width=1) for n in range(3)]
    for ticket in tickets:
        admission.enter(ticket)
    assert admission.start(0.0, tickets[:1]).threads == 4


def run_together(admission: Admission[Ticket], now: float, seconds: float, count: int) -> float:
    """Run that many calls at once from `now` on, and learn from them as the engine does."""
    tickets = [Ticket(KIND, now + 60) for _ in range(count)]
    for ticket in tickets:
        admission.enter(ticket)
    slots = [admission.start(now, [ticket]) for ticket in tickets]
    now += seconds
    for slot in slots:
        demand = admission.end(now, slot)
        admission.estimates.learn_run({KIND}, set(), demand, now, alone=slot.was_alone)
    return now


def test_what_a_call_takes_alone_does_not_count_for_calls_side_by_side() -> None:
    """On both threads it takes 80 ms, and two on one thread each take 100 ms."""
    admission = Admission[Ticket](SLOTS, QUEUE)
    now = 0.0
    for _ in range(20):
        now = run_together(admission, now, 0.080, 1)
    assert admission.estimates.guess(KIND).mean == pytest.approx(0.080)  # all that is known
    for _ in range(20):
        now = run_together(admission, now, 0.100, 2)
    assert admission.estimates.guess(KIND).mean == pytest.approx(0.050)
    assert admission.estimates.guess_in_batch(KIND, 1).mean == pytest.approx(0.050)
    assert admission.check_kind(now, KIND, now + 0.075) is not None  # alone, it takes 80 ms
    assert admission.check_kind(now, KIND, now + 0.085) is None


def test_a_call_that_others_joined_was_not_alone() -> None:
    admission = Admission[Ticket](SLOTS, QUEUE)
    tickets = [Ticket(KIND, 10.0), Ticket(KIND, 11.0)]
    for ticket in tickets:
        admission.enter(ticket)
    first = admission.start(0.0, tickets[:1])
    assert first.was_alone
    second = admission.start(0.5, tickets[1:])
    assert not first.was_alone
    admission.end(1.0, first)
    admission.end(2.0, second)
    assert not second.was_alone


@pytest.mark.parametrize("seed", range(20))
def test_a_queue_that_is_roomy_at_a_glance_is_so_by_the_exact_answer(seed: int) -> None:
    """Calls of several kinds and deadlines come and go; the glance may only be too careful."""
    chance = random.Random(seed)
    kinds = [CostKey.from_rows(f"m{n}", 1, "s", 1) for n in range(3)]
    admission = Admission[Ticket](chance.randint(1, 4), 64)
    now, running, seen = 0.0, list[Slot[Ticket]](), 0
    for _ in range(300):
        now += chance.expovariate(100)
        kind = chance.choice(kinds)
        width = chance.choice((None, None, 1, 2))
        ticket = Ticket(kind, now + chance.choice((0.05, 0.5, 30.0)), width)
        if admission.forecast.is_roomy(now, admission.waiting, ticket):
            seen += 1
            assert admission.forecast.overrun(now, admission.waiting, ticket) is None
        admission.enter(ticket)
        if admission.has_slot():
            running.append(admission.start(now, admission.waiting.line[:1]))
        if running and chance.random() < 0.9:
            slot = running.pop(chance.randrange(len(running)))
            admission.estimates.learn(slot.tickets[0].kind, chance.uniform(0.001, 0.02), now)
            admission.end(now, slot)
        if chance.random() < 0.2 and len(admission.waiting):
            admission.leave(chance.choice(admission.waiting.line))
    assert seen > 20
    assert sum(admission.waiting.kinds.values()) == len(admission.waiting)


def test_a_longer_queue_takes_no_more_steps() -> None:
    """With hundreds of connections, each call must cost what it costs with a few."""

    def steps(waiting: int) -> int:
        admission = Admission[Ticket](SLOTS, 1000)
        admission.estimates.learn(KIND, 0.001, 0.0)
        for _ in range(SLOTS + waiting):
            admission.enter(Ticket(KIND, 60.0))
        slots = [admission.start(0.0, admission.waiting.line[:1]) for _ in range(SLOTS)]
        ticket, count = Ticket(KIND, 60.0), 0

        def note(frame: Any, event: str, arg: Any) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(note)
        try:
            assert admission.check(0.1, ticket) is None
            admission.enter(ticket)
            admission.end(0.1, slots[0])
            assert admission.judge(0.1, admission.waiting.line[0]) is None
            admission.start(0.1, admission.waiting.line[:1])
            admission.leave(ticket)
        finally:
            sys.setprofile(None)
        return count

    assert steps(250) <= steps(15) + 12  # a search of the queue is logarithmic


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("place", [0.3, 0.8, 1.0])
def test_a_long_queue_of_batches_ends_as_if_it_were_walked_through(
    slots: int, place: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of eight takes 4 ms, whatever a call takes alone."""
    waiting, alone = 400, 0.002
    admission: Admission[Ticket] = Admission(slots, max_batch=8)
    for _ in range(20):
        admission.estimates.learn_run({KIND}, set(), alone, 0.0)
        admission.estimates.learn_run({KIND}, set(), alone / 4, 0.0, together=8)
    for number in range(waiting):
        admission.enter(Ticket(KIND, 100.0 + number))
    due = 100.0 + place * waiting + 0.5

    def ends() -> float:
        """When the call is expected to end: how late it would be if it were due at once."""
        ticket = Ticket(KIND, due)
        monkeypatch.setattr(Forecast, "climb", lambda *_: 1000.0)
        late = admission.forecast.overrun(0.0, admission.waiting, ticket)
        assert late is not None
        return late.seconds - slots * 1000.0 + due

    quickly = ends()
    monkeypatch.setattr(forecast, "_MANY", 10_000)
    exactly = ends()
    assert exactly >= place * waiting * alone / 4
    assert quickly == pytest.approx(exactly, abs=2 * slots * 8 * alone / 4)


class TestOnALadder:
    """A run takes 10 ms on the first rung, and 100 ms with a climb, which one in ten needs."""

    STAYED, CLIMBED, USUAL = 0.01, 0.1, 0.019

    @pytest.fixture
    def admission(self) -> Admission[Ticket]:
        admission: Admission[Ticket] = Admission(1, QUEUE)
        for climbs, seconds in (
            (None, self.USUAL),
            (False, self.STAYED),
            (True, self.CLIMBED),
        ):
            for _ in range(20):
                admission.estimates.learn(KIND.climbing(climbs), seconds, 0.0)
        return admission

    def ticket(self, seconds: float, *, may_stay: bool) -> Ticket:
        return Ticket(KIND, seconds, on_ladder=True, may_stay=may_stay)

    def occupied(self, admission: Admission[Ticket]) -> None:
        running = self.ticket(10.0, may_stay=True)
        admission.enter(running)
        admission.start(0.0, [running])

    @pytest.mark.parametrize(
        ("seconds", "may_stay", "is_admitted", "may_climb"),
        [
            (0.2, False, True, True),
            (0.2, True, True, True),
            (0.12, False, False, True),
            (0.12, True, True, False),
        ],
    )
    def test_what_cannot_climb_is_refused_or_stays_on_the_first_rung(
        self,
        admission: Admission[Ticket],
        seconds: float,
        may_stay: bool,
        is_admitted: bool,
        may_climb: bool,
    ) -> None:
        self.occupied(admission)
        ticket = self.ticket(seconds, may_stay=may_stay)
        verdict = admission.check(0.0, ticket)
        assert (verdict is None) is is_admitted
        assert verdict is None or verdict.why is Refusal.DEADLINE
        assert ticket.may_climb is may_climb
        assert ticket.kind == (KIND if may_climb else KIND.climbing(False))

    def test_a_deadline_too_short_for_any_climb_is_for_the_first_rung(
        self, admission: Admission[Ticket]
    ) -> None:
        self.occupied(admission)
        assert admission.check(0.0, self.ticket(0.09, may_stay=False)) is None
        assert admission.check(0.0, self.ticket(0.02, may_stay=False)) is not None

    def test_what_is_left_need_only_be_enough_for_the_first_rung(
        self, admission: Admission[Ticket]
    ) -> None:
        head, behind = (self.ticket(end, may_stay=False) for end in (0.018, 5.0))
        for ticket in (head, behind):
            admission.enter(ticket)
        assert admission.judge(0.0, head) is None
        too_late = admission.judge(0.01, head)
        assert too_late is not None
        assert too_late.why is Refusal.DISPLACED

    def test_others_wait_for_what_such_calls_take_on_average(
        self, admission: Admission[Ticket]
    ) -> None:
        ladder = [self.ticket(5.0, may_stay=True) for _ in range(20)]
        for ticket in ladder[10:]:
            ticket.stay()
        for ticket in ladder:
            admission.enter(ticket)
        last = self.ticket(6.0, may_stay=True)
        last.stay()
        [(_, end)] = admission.forecast._ends(0.0, admission.waiting, last, len(ladder))
        expected = 10 * self.USUAL + 11 * self.STAYED
        assert expected < end < expected * 1.5


def test_what_calls_took_beside_others_long_ago_gives_way_to_what_they_take_now() -> None:
    """Or calls beside others would be refused, and so never be measured again."""
    admission = Admission[Ticket](2)
    for _ in range(10):
        admission.estimates.learn_run({KIND}, set(), 1.0, 0.0)
        admission.estimates.learn_run({KIND}, set(), 0.01, 1000.0, alone=True)
    admission.enter(Ticket(KIND, 1000.5))
    admission.start(1000.0, admission.waiting.line[:1])
    assert admission.check(1000.0, Ticket(KIND, 1000.5)) is None


def test_calls_that_entered_before_anything_was_measured_count_for_what_they_take() -> None:
    admission = Admission[Ticket](2)
    for _ in range(1000):
        admission.enter(Ticket(KIND, 120.0))
    for _ in range(2):
        admission.start(0.0, admission.waiting.line[:1])
    for _ in range(10):
        admission.estimates.learn(KIND, 0.05, 1.0)
    let_in = [Ticket(KIND, 3.0) for _ in range(20)]
    for ticket in let_in:
        assert admission.check(1.0, ticket) is None
        admission.enter(ticket)


def test_a_model_with_a_width_may_not_fill_the_memory() -> None:
    admission = Admission[Ticket](2, max_waiting=4)
    admission.enter(Ticket(KIND, 99.0, width=1))
    admission.start(0.0, admission.waiting.line[:1])
    for _ in range(4):
        ticket = Ticket(KIND, 99.0, width=1)
        assert admission.check(0.0, ticket) is None
        admission.enter(ticket)
    verdict = admission.check(0.0, Ticket(KIND, 99.0, width=1))
    assert verdict is not None
    assert verdict.why is Refusal.QUEUE_FULL


def test_the_predicted_wait_is_what_a_call_then_waits() -> None:
    """Two slots share the server; each call takes a second of it, so two at once take two."""
    admission: Admission[Ticket] = Admission(2, QUEUE)

    def begin(now: float) -> Slot[Ticket]:
        ticket = Ticket(KIND, 100.0)
        admission.enter(ticket)
        return admission.start(now, [ticket])

    slot = begin(0.0)
    admission.estimates.learn(KIND, admission.end(1.0, slot), 1.0)

    for _ in range(2):
        assert admission.predicted_wait(1.0) == 0, "a slot is free"
        begin(1.0)
    assert admission.predicted_wait(1.0) == pytest.approx(2.0)
    assert admission.predicted_wait(2.0) == pytest.approx(1.0)
    for waiting in (1, 2, 3):
        admission.enter(Ticket(KIND, 100.0))
        assert admission.predicted_wait(2.0) == pytest.approx(1.0 + waiting)
