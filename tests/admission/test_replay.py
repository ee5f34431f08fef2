"""The simulation: its server, what it tells the admission, and the clairvoyant yardstick."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.admission.clairvoyant import clairvoyant
from mlserve.admission.estimates import CostKey
from mlserve.admission.patience import Patience
from mlserve.admission.replay import Arrival, Call, replay, simulate
from mlserve.admission.verdicts import Outcome, Refusal

KIND = CostKey.from_rows("m", 1, "serving_default", 1)


def arrival(at: float, demand: float = 1.0, **more: object) -> Arrival:
    return Arrival(at, KIND, demand, **more)  # type: ignore[arg-type]


class Fifo:
    """Lets every call in; the first come is the first served."""

    def __init__(self) -> None:
        self.line: list[Call] = []
        self.left: list[Call] = []

    def arrive(self, now: float, call: Call) -> Refusal | None:
        self.line.append(call)
        return None

    def take(self, now: float) -> Sequence[Call]:
        return [self.line.pop(0)] if self.line else ()

    def end(self, now: float, calls: Sequence[Call]) -> None:
        pass

    def leave(self, now: float, call: Call) -> None:
        self.line.remove(call)

    def leave_running(self, now: float, call: Call) -> None:
        self.left.append(call)


def test_calls_that_run_together_share_the_server() -> None:
    calls = simulate([arrival(0.0), arrival(0.5), arrival(0.75)], Fifo(), slots=2)
    # The first runs alone for 0.5 s, then at half the speed for 1 s; the second then has 0.5 left.
    # The third gets the first one's slot at 1.5 s.
    assert [call.started_at for call in calls] == [0.0, 0.5, 1.5]
    assert [call.decided_at for call in calls] == pytest.approx([1.5, 2.5, 3.0])
    assert all(call.is_answered for call in calls)


def test_a_slot_is_held_until_the_work_has_ended() -> None:
    arrivals = [arrival(0.0, patience=0.5), arrival(0.1, patience=0.5), arrival(0.2, timeout=5.0)]
    scheduler = Fifo()
    calls = simulate(arrivals, scheduler, slots=1)
    assert calls[0].outcome is Outcome.GONE
    assert scheduler.left == [calls[0]]
    assert calls[1].refused is Refusal.GONE
    assert calls[1].decided_at == pytest.approx(0.6)
    assert calls[2].started_at == pytest.approx(1.0)


def test_a_call_is_late_by_its_deadline_and_expires_in_the_queue() -> None:
    arrivals = [arrival(0.0, timeout=0.9, is_asked=True), arrival(0.0, timeout=0.5)]
    calls = simulate(arrivals, Fifo(), slots=1)
    assert (calls[0].outcome, calls[1].refused) == (Outcome.LATE, Refusal.EXPIRED)


def test_an_answer_at_the_last_moment_is_in_time() -> None:
    assert simulate([arrival(0.0, timeout=1.0)], Fifo(), slots=1)[0].is_answered


def test_admission_learns_and_refuses_what_cannot_be_in_time() -> None:
    arrivals = [arrival(10.0 * n, 1.0) for n in range(4)]
    arrivals += [arrival(40.0 + 0.01 * n, 1.0, timeout=3.0, is_asked=True) for n in range(6)]
    calls = replay(arrivals, Admission(2))
    assert all(call.is_answered for call in calls[:6])
    assert {call.refused for call in calls[6:]} <= {None, Refusal.DEADLINE}
    assert calls[-1].refused is Refusal.DEADLINE
    assert calls[-1].decided_at == arrivals[-1].at
    assert not any(call.outcome is Outcome.LATE for call in calls)


def test_a_call_that_gives_way_is_shed() -> None:
    arrivals = [arrival(10.0 * n, 1.0) for n in range(4)]
    arrivals += [arrival(40.0 + 0.01 * n, 1.0, timeout=3.0, is_asked=True) for n in range(6)]
    critical = {"timeout": 2.5, "is_asked": True, "priority": Priority.CRITICAL}
    arrivals += [arrival(40.1, 1.0, **critical)]
    calls = replay(arrivals, Admission(1))
    assert calls[-1].is_answered
    assert Refusal.SHED in {call.refused for call in calls}


def test_calls_alike_run_as_one_batch() -> None:
    admission: Admission[Call] = Admission(1)
    admission.widen(4)
    calls = replay([arrival(0.01 * n) for n in range(6)], admission)
    assert [call.started_at for call in calls] == pytest.approx([0.0, 1.0, 1.0, 1.0, 1.0, 5.0])


class _Noted(Patience):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, float]] = []

    def note_left(self, caller: Caller, waited: float, now: float) -> None:
        assert caller is UNKNOWN_CALLER
        self.notes.append(("left", round(waited, 3)))

    def note_stayed(self, caller: Caller, waited: float, now: float) -> None:
        self.notes.append(("stayed", round(waited, 3)))


def test_patience_is_told_who_left_and_who_stayed() -> None:
    patience = _Noted()
    arrivals = [
        arrival(0.0),
        arrival(0.0, patience=1.5),  # leaves while it runs
        arrival(0.0, patience=0.5),  # leaves the queue
        arrival(0.0, timeout=0.75, is_asked=True),  # says when it leaves
    ]
    replay(arrivals, Admission(1, patience=patience))
    assert patience.notes == [("left", 0.5), ("stayed", 1.0), ("left", 1.5)]


def test_the_clairvoyant_refuses_only_what_would_be_late_or_make_another_late() -> None:
    arrivals = [
        arrival(0.0, 1.0, timeout=5.0),
        arrival(0.0, 1.0, timeout=2.5),  # is due first, so it runs first
        arrival(0.1, 1.0, timeout=2.8),  # before the first
        arrival(0.1, 2.5, timeout=4.9),  # would end at 5.5
        arrival(0.2, 0.5, timeout=0.7),  # interrupts what runs
        arrival(0.2, 0.5, timeout=2.2),  # would end in time, but the one due at 2.9 would not
        arrival(0.2, 0.5, patience=4.8),
        arrival(9.0, 1.0),
    ]
    assert clairvoyant(arrivals) == pytest.approx([3.5, 1.5, 2.5, None, 0.7, None, 4.0, 10.0])


@pytest.mark.parametrize("load", [0.7, 1.0, 3.0])
def test_the_clairvoyant_is_at_work_whenever_it_can_be(load: float) -> None:
    chance = random.Random(int(10 * load))
    now, arrivals = 0.0, []
    for _ in range(1000):
        now += chance.expovariate(load)
        timeout = chance.choice([2.0, 4.0, 15.0])
        arrivals.append(arrival(now, chance.uniform(0.5, 1.5), timeout=timeout))
    ends = clairvoyant(arrivals)
    answered = [(a, end) for a, end in zip(arrivals, ends, strict=True) if end is not None]
    assert all(a.at + a.demand <= end + 1e-6 and end <= a.due + 1e-6 for a, end in answered)
    assert sum(a.demand for a, _ in answered) >= 0.85 * min(1.0, load) * now
