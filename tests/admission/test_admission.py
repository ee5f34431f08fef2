"""Admission by itself, on a simulated clock: nothing waits, and no figure is this machine's."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.estimates import CostKey
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Refusal
from tests.harness.admission import KIND, enter, known

SLOTS, QUEUE = 2, 32


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
