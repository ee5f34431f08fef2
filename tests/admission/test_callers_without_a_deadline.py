"""Callers that set no deadline: when they are due, when they are refused, and who goes first."""

from __future__ import annotations

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.callers import Caller
from mlserve.admission.estimates import CostKey
from mlserve.admission.patience import Patience, Wait
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Refusal, Verdict, error_of
from mlserve.deadline import Deadline

KIND = CostKey.from_rows("m", 1, "serving_default", 1)
CURL = Caller("rest", "curl/8.14.1", "192.0.2.1")
RUN = 0.1
"""What each call takes of the server, in seconds."""
DEFAULT = 30.0
"""The server's default deadline."""


class Seen(Patience):
    """What has been seen of the callers' patience, fixed."""

    def __init__(self, seconds: float, *, is_known: bool) -> None:
        self.wait = Wait(seconds, is_known, seconds)

    def of(self, caller: Caller, now: float, least: float = 0.0) -> Wait:
        return self.wait


def admission_of(seconds: float, *, is_known: bool, slots: int = 1) -> Admission[Ticket]:
    admission = Admission[Ticket](slots, patience=Seen(seconds, is_known=is_known))
    for _ in range(20):
        admission.estimates.learn(KIND, RUN, 0.0)
    return admission


def arrive(admission: Admission[Ticket], now: float) -> Ticket | Refusal:
    ticket = Ticket(KIND, now + DEFAULT, caller=CURL, is_asked=False, arrived_at=now)
    verdict = admission.check(now, ticket)
    if verdict is not None:
        return verdict.why
    admission.enter(ticket)
    return ticket


def start(admission: Admission[Ticket], now: float) -> Ticket:
    ticket = admission.next(now)
    assert ticket is not None
    admission.start(now, [ticket])
    return ticket


def let_in(admission: Admission[Ticket], now: float) -> Ticket:
    ticket = arrive(admission, now)
    assert isinstance(ticket, Ticket)
    return ticket


def test_a_caller_is_due_when_such_callers_hang_up() -> None:
    admission = admission_of(1.0, is_known=True)
    let_in(admission, 5.0)
    start(admission, 5.0)
    assert let_in(admission, 5.0).due_at == 6.0
    assert let_in(admission, 5.0).is_guessed


def test_it_goes_before_a_call_that_may_wait_longer_and_behind_one_that_may_not() -> None:
    admission = admission_of(1.0, is_known=True)
    let_in(admission, 0.0)
    start(admission, 0.0)
    patient, hasty = Ticket(KIND, 5.0), Ticket(KIND, 0.7)
    for ticket in (patient, hasty):
        assert admission.check(0.0, ticket) is None
        admission.enter(ticket)
    guessed = let_in(admission, 0.0)
    assert admission.waiting.line == [hasty, guessed, patient]


def test_it_is_refused_for_its_patience_once_no_slot_has_been_free_for_that_long() -> None:
    admission = admission_of(1.0, is_known=True)
    let_in(admission, 0.0)
    start(admission, 0.0)
    answers = [arrive(admission, 0.5) for _ in range(40)]
    assert Refusal.PATIENCE not in answers, "half a second of load is a burst"
    assert {arrive(admission, 1.0) for _ in range(5)} == {Refusal.PATIENCE}


def test_what_it_is_told_names_the_patience() -> None:
    admission = admission_of(1.0, is_known=True)
    let_in(admission, 0.0)
    start(admission, 0.0)
    for _ in range(40):
        arrive(admission, 0.5)
    verdict = admission.check(1.0, Ticket(KIND, 31.0, caller=CURL, is_asked=False, arrived_at=1.0))
    assert verdict is not None
    assert (verdict.why, verdict.limit) == (Refusal.PATIENCE, 1.0)
    assert verdict.seconds > 0


def test_it_is_told_apart_if_only_another_would_be_late() -> None:
    verdict = Verdict(Refusal.PATIENCE, 0.2, 1.0, for_another=True)
    error = error_of(verdict, Deadline.after(30.0), running=2, waiting=9)
    assert "would make another one come about 0.2 s late" in error.message
    assert "too late for callers" not in error.message


def test_a_model_that_takes_longer_than_such_callers_wait_is_run_while_there_is_a_slot() -> None:
    admission = admission_of(RUN / 2, is_known=True)
    for now in (0.0, 1.0, 2.0):
        ticket = let_in(admission, now)
        slot = admission.start(now, [ticket])
        admission.end(now + RUN, slot)


def test_one_that_may_hang_up_any_moment_waits_apart_until_that_shows() -> None:
    admission = admission_of(1.0, is_known=True)
    busy = admission.start(0.0, [let_in(admission, 0.0)])
    old, new = let_in(admission, 0.1), let_in(admission, 0.9)
    admission.end(1.05, busy)
    assert admission.next(1.05) is new, "it would run while its caller may well leave"
    assert admission.waiting.overdue == [old]
    assert old.is_waiting
    admission.leave(new)
    assert admission.next(1.06) is old, "its caller is still there, and nothing else waits"
    assert admission.leave(old)
    assert not len(admission.waiting)
    assert not admission.waiting.kinds


def test_one_that_has_stayed_beyond_that_is_due_with_the_more_patient() -> None:
    admission = admission_of(1.0, is_known=True)
    busy = admission.start(0.0, [let_in(admission, 0.0)])
    old = let_in(admission, 0.1)
    newer = [let_in(admission, 0.9), let_in(admission, 0.9)]
    admission.end(1.05, busy)
    assert admission.next(1.05) is newer[0]
    busy = admission.start(1.05, [newer[0]])
    admission.patience.wait = Wait(5.0, is_known=True)  # type: ignore[attr-defined]
    admission.end(1.25, busy)
    assert admission.next(1.25) is newer[1]
    assert admission.waiting.overdue == []
    assert (old.due_at, old.shows_at) == (5.1, pytest.approx(0.1 + 1.12))


class Levels(Patience):
    """Callers of which some leave after 1 s, and all others after 4 s."""

    def of(self, caller: Caller, now: float, least: float = 0.0) -> Wait:
        return Wait(1.0 if least <= 1.0 else max(4.0, least), is_known=True, longest=4.0)


def test_it_is_due_at_the_first_moment_that_can_be_met_and_refused_if_none_can() -> None:
    admission = Admission[Ticket](1, patience=Levels())
    for _ in range(20):
        admission.estimates.learn(KIND, RUN, 0.0)
    admission.start(0.0, [let_in(admission, 0.0)])
    dues = [round(let_in(admission, 0.0).due_at, 3) for _ in range(60)]
    assert sorted(dues) == dues
    assert (dues.count(1.0), dues.count(4.0)) == (8, 30)
    assert dues.count(DEFAULT) == 60 - 8 - 30, "no slot has been free only for a moment"
    assert arrive(admission, 4.0) is Refusal.PATIENCE


def test_nothing_is_reordered_until_waits_are_twice_what_callers_are_known_to_stand() -> None:
    admission = admission_of(2.0, is_known=False)
    let_in(admission, 0.0)
    start(admission, 0.0)
    first, *_ = [let_in(admission, 0.1 * n) for n in range(10)]
    assert admission.next(3.9) is first


def test_clients_who_ask_again_and_again_are_answered_in_turn() -> None:
    """Sixteen that take turns wait 1.6 s each, and nobody has ever been seen to wait longer."""
    admission, clients, now = Admission[Ticket](1), 16, 0.0
    for _ in range(clients):
        let_in(admission, now)
    waits = []
    for _ in range(20 * clients):
        ticket = start(admission, now)
        now += RUN
        admission.estimates.learn(KIND, admission.end(now, admission.running[0]), now)
        waits.append(now - ticket.arrived_at)
        admission.patience.note_stayed(CURL, waits[-1], now)
        let_in(admission, now)
    assert max(waits) < (clients + 1) * RUN


def test_the_newest_go_first_beyond_twice_that_and_each_fourth_is_the_oldest() -> None:
    admission = admission_of(2.0, is_known=False, slots=8)
    waiting = [let_in(admission, 0.1 * n) for n in range(10)]
    order = [waiting.index(start(admission, 5.0)) for _ in range(8)]
    assert order == [0, 9, 8, 7, 1, 6, 5, 4]


def test_the_oldest_goes_first_where_it_would_be_late_otherwise() -> None:
    admission = admission_of(2.0, is_known=False)
    admission.start(0.0, [let_in(admission, 0.0)])
    waiting = [let_in(admission, 0.1 * n) for n in range(1, 100)]
    assert admission.next(19.0) is waiting[-1]
    assert admission.next(21.0) is waiting[0], "ten seconds of work wait, and nine are left"


def test_the_newest_that_may_run_goes_first_where_a_model_is_full() -> None:
    admission = admission_of(2.0, is_known=False, slots=2)
    narrow = CostKey.from_rows("narrow", 1, "serving_default", 1)
    runs = Ticket(narrow, 60.0, width=1, is_asked=False)
    admission.enter(runs)
    admission.start(0.0, [runs])
    _, newer = let_in(admission, 0.0), let_in(admission, 0.1)
    admission.enter(Ticket(narrow, 60.0, width=1, is_asked=False, arrived_at=0.2))
    assert admission.next(5.0) is newer


def test_those_who_set_a_deadline_keep_their_order() -> None:
    admission = admission_of(2.0, is_known=False)
    admission.start(0.0, [let_in(admission, 0.0)])
    let_in(admission, 0.0)
    dated = Ticket(KIND, 10.0)
    admission.enter(dated)
    let_in(admission, 3.0)
    assert admission.next(5.0) is dated


def test_the_queue_is_bounded_by_the_bytes_that_it_holds() -> None:
    admission = Admission[Ticket](1, max_held=100_000)
    admission.enter(Ticket(KIND, 9.0))
    admission.start(0.0, admission.waiting.line[:1])
    assert admission.check(0.0, Ticket(KIND, 9.0, held=10**9)) is None, "it is the only one"
    admission.enter(Ticket(KIND, 9.0, held=60_000))
    verdict = admission.check(0.0, Ticket(KIND, 9.0, held=60_000))
    assert verdict is not None
    assert (verdict.why, verdict.limit) == (Refusal.MEMORY, 100_000)
    assert admission.check(0.0, Ticket(KIND, 9.0, held=1_000)) is None


def test_five_hundred_short_calls_at_once_may_all_wait() -> None:
    admission = admission_of(2.0, is_known=False, slots=2)
    for _ in range(50):
        admission.estimates.learn(KIND, 0.002, 0.0)
    assert all(isinstance(arrive(admission, 0.0), Ticket) for _ in range(500))


@pytest.mark.parametrize("waiting", [10, 40], ids=["few", "many"])
def test_a_head_is_refused_only_where_its_call_would_be(waiting: int) -> None:
    admission = admission_of(2.0, is_known=False, slots=2)
    for _ in range(waiting + 2):
        admission.enter(Ticket(KIND, 60.0))
    for _ in range(2):
        admission.start(0.0, admission.waiting.line[:1])
    for tenths in range(200):
        ticket = Ticket(KIND, tenths / 10)
        head = Ticket(KIND, tenths / 10)
        refused = admission.check_head(0.0, head)
        verdict = admission.check(0.0, ticket)
        if verdict is not None and verdict.why is Refusal.TOO_SLOW:  # it may be of a faster kind
            verdict = None
        assert refused == verdict


def test_a_server_that_was_idle_since_refuses_nobody_for_their_patience() -> None:
    admission = admission_of(0.5, is_known=True)
    busy = admission.start(0.0, [let_in(admission, 0.0)])
    waiting = let_in(admission, 0.0)
    admission.end(0.1, busy)
    admission.leave(waiting)
    admission.start(3600.0, [let_in(admission, 3600.0)])
    assert Refusal.PATIENCE not in [arrive(admission, 3600.1) for _ in range(20)]
