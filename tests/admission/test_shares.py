"""Whose calls go first under overload: classes, models, tokens."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.callers import Caller, Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Refusal

FAST = CostKey.from_rows("fast", 1, "serving_default", 1)
SLOW = CostKey.from_rows("slow", 1, "serving_default", 1)
RUNS = {FAST: 0.01, SLOW: 0.1}


def busy(**options: object) -> Admission[Ticket]:
    """A server of one slot, in which a call runs."""
    admission = Admission[Ticket](1, **options)  # type: ignore[arg-type]
    for kind, seconds in RUNS.items():
        for _ in range(20):
            admission.estimates.learn(kind, seconds, 0.0)
    admission.enter(Ticket(FAST, 99.0))
    admission.start(0.0, admission.waiting.line[:1])
    return admission


def fill(admission: Admission[Ticket], kind: CostKey, now: float, **options: object) -> int:
    """Let calls in that are due in a second until one is refused; return how many."""
    count = 0
    while admission.check(now, ticket := Ticket(kind, now + 1.0, **options)) is None:  # type: ignore[arg-type]
        admission.enter(ticket)
        count += 1
    return count


def test_a_call_of_a_higher_class_takes_the_place_of_the_last_due_of_a_lower_one() -> None:
    admission = busy()
    fill(admission, SLOW, 0.0)
    last = admission.waiting.line[-1]
    ticket = Ticket(SLOW, 1.0, priority=Priority.CRITICAL)
    assert admission.check(0.0, ticket) is None
    assert admission.shed == [last]
    assert not last.is_waiting


def test_the_sheddable_go_before_the_others_and_equals_never() -> None:
    admission = busy()
    fill(admission, SLOW, 0.0, priority=Priority.CRITICAL)
    for ticket in admission.waiting.line[:2]:
        admission.leave(ticket)
    low = Ticket(SLOW, 0.9, priority=Priority.SHEDDABLE)
    middle = Ticket(SLOW, 1.0)
    for ticket in (low, middle):
        assert admission.check(0.0, ticket) is None
        admission.enter(ticket)
    assert admission.check(0.0, Ticket(SLOW, 1.0, priority=Priority.SHEDDABLE)) is not None
    for gone in ([low], [low, middle]):
        ticket = Ticket(SLOW, 1.0, priority=Priority.CRITICAL)
        assert admission.check(0.0, ticket) is None
        assert admission.shed == gone
        admission.enter(ticket)
    assert admission.check(0.0, Ticket(SLOW, 1.0, priority=Priority.CRITICAL)) is not None


def test_no_one_gives_way_in_vain() -> None:
    admission = busy()
    fill(admission, SLOW, 0.0)
    before = list(admission.waiting)
    late = admission.check(0.0, Ticket(SLOW, 0.05, priority=Priority.CRITICAL))
    assert late is not None
    assert not admission.shed
    assert list(admission.waiting) == before


def test_short_calls_give_way_in_numbers_to_a_long_one() -> None:
    admission = busy()
    fill(admission, FAST, 0.0)
    before = len(admission.waiting)
    assert admission.check(0.0, Ticket(SLOW, 1.0, priority=Priority.CRITICAL)) is None
    assert 10 <= len(admission.shed) <= 22
    assert len(admission.waiting) + len(admission.shed) == before


def shares(admission: Admission[Ticket], seconds: float = 20.0) -> dict[str, float]:
    """Offer each model twice its half; return how much of the server's time each has had."""
    had = dict.fromkeys(("fast", "slow"), 0.0)
    now, step = 0.0, 0
    slot, ends = admission.running[0], RUNS[FAST]
    while now < seconds:
        for kind, each in RUNS.items():
            if step % round(each / RUNS[FAST]) == 0:
                ticket = Ticket(kind, now + 1.0)
                if admission.check(now, ticket) is None:
                    admission.enter(ticket)
                admission.shed.clear()
        step += 1
        now += RUNS[FAST]
        if now + 1e-9 >= ends:
            admission.end(now, slot)
            ticket = admission.next(now)  # type: ignore[assignment]
            while ticket is not None and admission.judge(now, ticket) is not None:
                admission.leave(ticket)
                ticket = admission.next(now)  # type: ignore[assignment]
            assert ticket is not None
            had[ticket.kind.model] += RUNS[ticket.kind]
            slot, ends = admission.start(now, [ticket]), now + RUNS[ticket.kind]
    return {model: part / seconds for model, part in had.items()}


def test_two_models_that_each_ask_for_twice_their_half_get_it() -> None:
    had = shares(busy())
    assert had["fast"] + had["slow"] > 0.97
    assert min(had.values()) > 0.45


def test_a_model_pays_for_what_its_calls_cost_beside_their_runs() -> None:
    """Runs have 0.8 of the server; the rest is for the calls, ten fast ones with each slow one."""
    admission = busy()
    admission.overhead = 0.2
    had = shares(admission)
    beside = {"fast": 0.2 * 10 / 11, "slow": 0.2 / 11}
    whole = {model: 0.8 * part + beside[model] for model, part in had.items()}
    assert sum(whole.values()) > 0.97
    assert min(whole.values()) > 0.45


def test_a_flood_of_calls_does_not_take_all_of_the_models_own_time() -> None:
    admission = busy()
    admission.overhead = 0.9
    assert shares(admission)["fast"] > 0.2


def test_a_loop_that_takes_the_whole_server_leaves_each_model_its_share() -> None:
    """Also where most of the calls are for models that hardly run."""
    admission = busy()
    admission.overhead = 1.0
    for number in range(8):
        idle = CostKey.from_rows(f"idle {number}", 1, "serving_default", 1)
        admission.estimates.learn(idle, 1e-6, 0.0)
        for _ in range(10):
            assert admission.check(0.0, Ticket(idle, 9.0)) is None
    had = shares(admission)
    assert had["fast"] + had["slow"] > 0.97
    assert min(had.values()) > 0.2


def test_the_overhead_of_a_model_that_is_alone_changes_nothing() -> None:
    counts = set()
    for overhead in (0.0, 0.5):
        admission = busy()
        admission.overhead = overhead
        counts.add(fill(admission, FAST, 0.0))
    assert len(counts) == 1


def test_one_model_may_use_what_the_other_leaves() -> None:
    admission = busy()
    assert fill(admission, FAST, 0.0) > 80


def test_a_token_may_queue_what_its_share_allows() -> None:
    admission = busy(token_shares={"batch": 0.3})
    batch, web = Caller("rest", token="batch"), Caller("rest", token="web")
    assert admission.check(0.0, Ticket(FAST, 1.0, caller=web)) is None
    first = fill(admission, FAST, 0.0, caller=batch)
    assert 20 <= first <= 30
    verdict = admission.check(0.0, Ticket(FAST, 1.0, caller=batch))
    assert verdict is not None
    assert (verdict.why, verdict.limit) == (Refusal.SHARE, 0.3)
    assert 50 <= fill(admission, FAST, 0.0, caller=web) <= 70


def test_a_token_has_all_of_a_server_that_no_one_else_asks() -> None:
    admission = busy(token_shares={"batch": 0.3})
    assert fill(admission, FAST, 0.0, caller=Caller("rest", token="batch")) > 80


def test_a_model_that_asks_for_what_cannot_be_takes_nothing_from_the_others() -> None:
    admission = busy()
    for _ in range(50):
        verdict = admission.check(0.0, Ticket(SLOW, 0.01))
        assert verdict is not None
        assert verdict.why is Refusal.TOO_SLOW
    assert fill(admission, FAST, 0.0) > 80


def test_of_calls_that_give_way_in_vain_nothing_has_changed() -> None:
    admission = busy()
    for _ in range(5):
        admission.enter(Ticket(SLOW, 0.5))
    before = list(admission.waiting.line), list(admission.waiting.demands), admission.waiting.held
    assert admission.check(0.0, Ticket(SLOW, 0.05, priority=Priority.CRITICAL)) is not None
    assert before == (
        list(admission.waiting.line),
        list(admission.waiting.demands),
        admission.waiting.held,
    )


def test_a_share_limits_nothing_while_a_slot_is_free() -> None:
    admission = Admission[Ticket](2, token_shares={"batch": 0.01})
    admission.estimates.learn(FAST, 0.01, 0.0)
    admission.enter(Ticket(FAST, 9.0))
    admission.start(0.0, admission.waiting.line[:1])
    caller = Caller("rest", token="batch")
    assert admission.check(0.0, Ticket(FAST, 0.1, caller=caller)) is None


def test_the_price_is_the_part_that_is_refused_of_a_class() -> None:
    admission = busy()
    critical, default = (
        Ticket(SLOW, 1.0, priority=p) for p in (Priority.CRITICAL, Priority.DEFAULT)
    )
    for _ in range(100):
        ticket = Ticket(SLOW, 1.0, priority=Priority.DEFAULT)
        if admission.check(0.0, ticket) is None:
            admission.enter(ticket)
        assert admission.price(0.0, critical) == 0.0
    let_in = len(admission.waiting)
    assert admission.price(0.0, default) == pytest.approx(1 - let_in / 100)
    assert admission.price(60.0, default) == pytest.approx(1 - let_in / 100)


def test_the_price_is_not_that_of_other_models_tokens_or_impossible_deadlines() -> None:
    """Clients send fewer calls by it: they must not do so for what others ask."""
    admission = busy()
    fill(admission, SLOW, 0.0)
    for _ in range(100):
        too_slow = admission.check(0.0, Ticket(FAST, 0.001))
        assert too_slow is not None
        assert too_slow.why is Refusal.TOO_SLOW
        assert admission.check(0.0, Ticket(SLOW, 1.0)) is not None
    assert admission.price(0.0, Ticket(SLOW, 1.0)) > 0.9
    assert admission.price(0.0, Ticket(FAST, 1.0)) == 0.0
    assert admission.price(0.0, Ticket(SLOW, 1.0, caller=Caller("rest", token="web"))) == 0.0


def test_a_long_queue_of_two_models_is_not_walked_through() -> None:
    """Each call must cost what it costs with a few in the queue."""

    def steps(waiting: int) -> int:
        admission = busy()
        for number in range(waiting):
            ticket = Ticket(FAST, 1000.0 + number)
            admission.check(0.0, ticket)
            admission.enter(ticket)
        admission.check(0.0, Ticket(SLOW, 5000.0))
        return calls_of(lambda: admission.check(0.0, Ticket(FAST, 5000.0)))

    assert steps(2000) <= steps(100) + 20


def test_a_long_queue_of_a_full_model_is_not_walked_through() -> None:
    def steps(waiting: int) -> int:
        admission = Admission[Ticket](2)
        admission.estimates.learn(FAST, 0.01, 0.0)
        for number in range(waiting):
            admission.enter(Ticket(FAST, 1000.0 + number, width=1))
        admission.start(0.0, admission.waiting.line[:1])
        return calls_of(lambda: admission.next(0.0))

    assert steps(2000) <= steps(100) + 20


def calls_of(do: Callable[[], object]) -> int:
    """Return how many functions that calls."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    do()  # some things are only done the first time
    gc.disable()  # others have functions called when it runs
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
