"""When calls end, and what each has of the server meanwhile."""

from __future__ import annotations

import random

import pytest

from mlserve.admission import forecast
from mlserve.admission.admission import Admission
from mlserve.admission.estimates import CostKey
from mlserve.admission.forecast import Forecast
from mlserve.admission.tickets import Slot, Ticket
from tests.harness.admission import KIND, enter, known

SLOTS, QUEUE = 2, 32


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


def test_who_waits_for_the_width_of_a_model_takes_no_threads() -> None:
    admission = Admission[Ticket](4, QUEUE)
    narrow = CostKey.from_rows("narrow", 1, "serving_default", 1)
    tickets = [Ticket(narrow, 10.0 + n, width=1) for n in range(3)]
    for ticket in tickets:
        admission.enter(ticket)
    assert admission.start(0.0, tickets[:1]).threads == 4


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
