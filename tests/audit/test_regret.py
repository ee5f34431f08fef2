"""The audit of simulated servers: what it counts, and that the replay does as the server did."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.callers import Caller
from mlserve.admission.decisions import Decisions
from mlserve.admission.estimates import CostKey
from mlserve.admission.recording import Recording
from mlserve.admission.replay import AdmissionScheduler, Arrival, Call, simulate
from mlserve.admission.tickets import Slot
from mlserve.admission.verdicts import Outcome, Refusal, Verdict
from mlserve.audit.regret import Audit, audit
from mlserve.errors import InvalidInput

KIND = CostKey.from_rows("m", 1, "serving_default", 1)
SLOTS = 2


class Recorded(AdmissionScheduler):
    """Admission that keeps its decisions, as the engine has it keep them."""

    def __init__(self, admission: Admission[Call], decisions: Decisions) -> None:
        super().__init__(admission)
        self.admission = admission
        self.decisions = decisions

    def arrive(self, now: float, call: Call) -> Refusal | None:
        why = super().arrive(now, call)
        verdict = None if why is None else Verdict(why, 0.0)
        self.decisions.arrived(now, "", call, self.admission, verdict)
        return why

    def take(self, now: float) -> Sequence[Call]:
        waiting = list(self.admission.waiting)
        calls = super().take(now)
        for call in waiting:
            if call.refused is not None:
                self.decisions.taken_out(now, call, call.refused)
        if calls:
            self.decisions.started(now, self.slot(calls))
        return calls

    def end(self, now: float, calls: Sequence[Call]) -> None:
        slot = self.slot(calls)
        demand = sum(call.arrival.demand for call in calls) / len(calls)
        super().end(now, calls)
        self.decisions.ended(now, slot, demand)
        for call in calls:
            assert call.outcome is not None
            self.decisions.settled(call, call.outcome)

    def leave(self, now: float, call: Call) -> None:
        super().leave(now, call)
        has_left = call.arrival.patience < call.arrival.timeout
        self.decisions.taken_out(now, call, Refusal.GONE if has_left else Refusal.EXPIRED)

    def leave_running(self, now: float, call: Call) -> None:
        super().leave_running(now, call)
        if call.arrival.patience < call.arrival.timeout:
            self.decisions.left(now, call)

    def slot(self, calls: Sequence[Call]) -> Slot[Call]:
        return next(slot for slot in self.admission.running if slot.tickets[0] is calls[0])


@dataclass
class Served:
    """A simulated server after its last call: what became of each, and its recording."""

    calls: list[Call]
    recording: Recording

    @property
    def answered(self) -> int:
        return sum(call.is_answered for call in self.calls)

    def audit(self) -> Audit:
        return audit(self.recording)


def serve(arrivals: Sequence[Arrival], **options: Any) -> Served:
    admission, decisions = Admission[Call](SLOTS, **options), Decisions()
    calls = simulate(arrivals, Recorded(admission, decisions), SLOTS)
    return Served(calls, decisions.copy(0.0, 0.0, admission).recording())


def load(times: float, seconds: float = 60.0, **more: Any) -> list[Arrival]:
    """Poisson arrivals of calls of 50 ms, at that multiple of the capacity."""
    chance, at, arrivals = random.Random(3), 0.0, []
    while at < seconds:
        at += chance.expovariate(times / 0.05)
        arrivals.append(Arrival(at, KIND, 0.05, **{"timeout": 0.5, "is_asked": True, **more}))
    return arrivals


@pytest.mark.slow
def test_the_counts_are_those_of_the_server() -> None:
    served = serve(load(2.0))
    found = served.audit()
    assert found.calls == len(served.calls)
    assert found.answered.calls == served.answered
    assert found.answered.seconds == pytest.approx(0.05 * served.answered)
    refused = [call.refused for call in served.calls if call.refused is not None]
    assert found.refused | found.taken_out == {why: refused.count(why) for why in set(refused)}
    assert found.unfinished == found.left_out == found.failed.calls == 0
    assert found.calls == found.answered.calls + found.in_vain.calls + len(refused)


@pytest.mark.slow
@pytest.mark.parametrize("times", [0.8, 1.5, 3.0])
def test_the_replay_answers_as_many_as_the_server_did(times: float) -> None:
    served = serve(load(times))
    found = served.audit()
    assert found.replayed == pytest.approx(served.answered, rel=0.02)
    assert found.busy == pytest.approx(min(times, 1.0), abs=0.1)


def test_nothing_is_regretted_where_all_are_answered() -> None:
    found = serve(load(0.3, timeout=5.0)).audit()
    assert found.answered.calls == found.clairvoyant == found.replayed == found.calls
    assert (found.regret, found.wasted, found.missed, found.given_up) == (0.0, 0.0, 0, 0)


def test_a_queue_that_was_too_short_is_regretted() -> None:
    """Bursts of 20 could all be answered in time, and the server had places for two."""
    arrivals = [
        Arrival(second + 0.001 * number, KIND, 0.01, timeout=0.9, is_asked=True)
        for second in range(20)
        for number in range(20)
    ]
    found = serve(arrivals, max_waiting=2).audit()
    assert found.refused[Refusal.QUEUE_FULL] > 100
    assert found.clairvoyant == 400
    assert found.regretted == found.missed == 400 - found.answered.calls
    assert found.regret == pytest.approx(found.regretted / 400)
    assert serve(arrivals).audit().regretted == 0


def test_work_for_callers_who_left_is_in_vain() -> None:
    """Ten at once, of whom nobody knows that they leave after 0.15 s: two are answered by then."""
    arrivals = [Arrival(0.0, KIND, 0.05, patience=0.15) for _ in range(10)]
    found = serve(arrivals).audit()
    assert (found.answered.calls, found.in_vain.calls) == (2, 2)
    assert found.wasted == pytest.approx(0.5)
    assert found.taken_out == {Refusal.GONE: 6}
    assert found.clairvoyant == 3


def test_what_no_admission_decides_is_left_out() -> None:
    served = serve(load(1.0, seconds=5.0))
    decisions = served.recording.decisions
    stopping = replace(decisions[-1], is_let_in=False, why=Refusal.DRAINING, outcome=None)
    running = replace(decisions[-1], outcome=None, ended_at=None, demand=None, why=None)
    found = audit(replace(served.recording, decisions=(*decisions, stopping, running)))
    assert (found.left_out, found.unfinished) == (1, 1)
    assert found.calls == len(decisions)


def test_a_call_that_failed_has_used_the_server() -> None:
    served = serve(load(0.5, seconds=5.0))
    first, *others = served.recording.decisions
    failed = replace(first, outcome=Outcome.FAILED)
    found = audit(replace(served.recording, decisions=(failed, *others)))
    assert (found.failed.calls, found.failed.seconds) == (1, pytest.approx(0.05))


def test_calls_whose_kind_was_never_run_take_what_the_others_do() -> None:
    """Those that are refused when only their head is known."""
    served = serve(load(2.0, seconds=10.0))
    unread = CostKey.from_head("")
    decisions = tuple(
        each if each.demand is not None else replace(each, kind=unread, mean=None)
        for each in served.recording.decisions
    )
    found = audit(replace(served.recording, decisions=decisions))
    assert found.clairvoyant == pytest.approx(served.audit().clairvoyant, rel=0.02)


def test_a_recording_that_tells_nothing_is_refused() -> None:
    served = serve(load(1.0, seconds=1.0))
    unmeasured = replace(served.recording.decisions[0], mean=None, demand=None)
    with pytest.raises(InvalidInput, match="none has been run"):
        audit(replace(served.recording, decisions=(unmeasured,)))
    with pytest.raises(InvalidInput, match="no call that admission decided"):
        audit(replace(served.recording, decisions=()))


def test_callers_without_a_deadline_are_as_patient_as_was_expected() -> None:
    caller = Caller("rest", "curl/8.14.1", "1")
    served = serve(load(2.0, seconds=20.0, is_asked=False, timeout=30.0, patience=1.0))
    guessed = [
        replace(each, caller=caller, due_at=each.decided_at + 1.0, why=Refusal.PATIENCE)
        if not each.is_let_in
        else each
        for each in served.recording.decisions
    ]
    found = audit(replace(served.recording, decisions=tuple(guessed)))
    assert found.clairvoyant <= found.calls
    assert found.to_json()["refused"].keys() <= {"patience"}
