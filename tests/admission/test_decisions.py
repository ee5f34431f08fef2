"""The ring of decisions: what it keeps, how long, and that it can be read back."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.callers import Caller, Priority
from mlserve.admission.decisions import Decisions
from mlserve.admission.estimates import CostKey
from mlserve.admission.recording import Decision, Recording
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Outcome, Refusal, Verdict

KIND = CostKey.from_rows("m", 1, "serving_default", 1)
WIDE = CostKey.from_rows("wide", 1, "serving_default", 1)
CURL = Caller("rest", "curl/8.14.1", "10.0.0.7", "ops")
NOW, WALL = 100.0, 1_800_000_000.0


def ring(size: int = 8) -> tuple[Decisions, Admission[Ticket]]:
    return Decisions(size), Admission(slots=2)


def ticket(due: float, **more: Any) -> Ticket:
    return Ticket(KIND, due, **{"caller": CURL, "arrived_at": 1.0, **more})


def read(decisions: Decisions, admission: Admission[Ticket], request_id: str = "") -> Recording:
    return decisions.copy(NOW, WALL, admission).recording(request_id)


def test_a_call_is_followed_to_its_end() -> None:
    decisions, admission = ring()
    call = ticket(9.0, priority=Priority.CRITICAL, is_asked=False, held=17)
    for _ in range(3):
        admission.estimates.learn(KIND, 0.25, 0.0)
    decisions.arrived(2.0, "one", call, admission, None)
    admission.enter(call)
    slot = admission.start(3.0, [call])
    decisions.started(3.0, slot)
    decisions.ended(4.0, slot, admission.end(4.0, slot))
    decisions.settled(call, Outcome.ANSWERED)
    [kept] = read(decisions, admission).decisions
    assert kept == Decision(
        request_id="one",
        kind=KIND,
        caller=CURL._replace(address="1"),
        priority=Priority.CRITICAL,
        is_asked=False,
        is_let_in=True,
        for_another=False,
        why=None,
        outcome=Outcome.ANSWERED,
        decided_at=2.0 - NOW,
        arrived_at=1.0 - NOW,
        expires_at=9.0 - NOW,
        due_at=9.0 - NOW,
        mean=0.25,
        spread=0.0,
        seconds=0.0,
        limit=0.0,
        started_at=3.0 - NOW,
        ended_at=4.0 - NOW,
        demand=1.0,
        out_at=None,
        left_at=None,
        held=17,
        ahead=None,
        waiting=0,
        running=0,
        together=1,
    )


def test_a_refusal_says_what_was_before_it() -> None:
    decisions, admission = ring()
    for due in (5.0, 6.0, 7.0, 8.0):
        waits = ticket(due)
        decisions.arrived(1.0, f"due at {due}", waits, admission, None)
        admission.enter(waits)
    first = admission.waiting.line[0]
    decisions.started(1.5, admission.start(1.5, [first]))
    verdict = Verdict(Refusal.DEADLINE, 0.5, limit=2.0, for_another=True)
    decisions.arrived(2.0, "refused", ticket(7.5), admission, verdict)
    [kept] = read(decisions, admission, "refused").decisions
    assert (kept.why, kept.seconds, kept.limit) == (Refusal.DEADLINE, 0.5, 2.0)
    assert kept.for_another
    assert not kept.is_let_in
    assert (kept.ahead, kept.waiting, kept.running) == (2, 3, 1)
    assert kept.out_at == 2.0 - NOW


def test_a_call_that_waited_in_vain_says_why() -> None:
    decisions, admission = ring()
    displaced, gone = ticket(5.0), ticket(6.0)
    for call in (displaced, gone):
        decisions.arrived(1.0, "", call, admission, None)
    decisions.taken_out(4.0, displaced, Refusal.DISPLACED)
    decisions.left(4.5, gone)
    first, second = read(decisions, admission).decisions
    assert (first.why, first.out_at, first.is_let_in) == (Refusal.DISPLACED, 4.0 - NOW, True)
    assert (second.why, second.left_at) == (None, 4.5 - NOW)


def test_only_the_last_calls_are_kept() -> None:
    decisions, admission = ring(size=4)
    calls = [ticket(9.0) for _ in range(10)]
    for number, call in enumerate(calls):
        decisions.arrived(float(number), str(number), call, admission, None)
    decisions.left(11.0, calls[0])  # its place is another call's by now
    decisions.left(12.0, calls[9])
    recording = read(decisions, admission)
    assert [each.request_id for each in recording.decisions] == ["6", "7", "8", "9"]
    assert [each.left_at for each in recording.decisions] == [None, None, None, 12.0 - NOW]
    assert (recording.kept, recording.forgotten) == (4, 6)
    assert read(decisions, admission, "3").decisions == ()
    assert len(read(decisions, admission, "7").decisions) == 1


def test_a_ring_without_room_keeps_nothing() -> None:
    decisions, admission = ring(size=0)
    call = ticket(9.0)
    decisions.arrived(1.0, "one", call, admission, None)
    decisions.taken_out(2.0, call, Refusal.GONE)
    assert read(decisions, admission).decisions == ()


def test_addresses_are_numbered_and_not_told() -> None:
    decisions, admission = ring()
    for address in ("10.0.0.7", "", "10.0.0.8", "10.0.0.7"):
        caller = CURL._replace(address=address)
        decisions.arrived(1.0, "", ticket(9.0, caller=caller), admission, None)
    recording = read(decisions, admission)
    assert [each.caller.address for each in recording.decisions] == ["1", "", "2", "1"]
    assert "10.0.0" not in "".join(recording.pieces())


def test_kinds_and_callers_that_no_call_has_any_more_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlserve.admission.decisions._MOST_KNOWN", 10)
    decisions, admission = ring(size=4)
    for number in range(1000):
        caller = CURL._replace(address=str(number))
        kind = KIND._replace(size=number)
        call = Ticket(kind, 9.0, caller=caller)
        decisions.arrived(1.0, "", call, admission, None)
    assert len(decisions._known) <= 2 * 4 + 10
    assert [each.kind.size for each in read(decisions, admission).decisions] == [*range(996, 1000)]


def test_the_garbage_collector_has_nothing_to_walk_over() -> None:
    decisions, admission = ring(size=100)
    for number in range(100):
        verdict = Verdict(Refusal.SHED, 0.5) if number % 2 else None
        decisions.arrived(1.0, str(number), ticket(9.0), admission, verdict)
    gc.collect()
    assert not any(map(gc.is_tracked, decisions._arrivals))


@pytest.mark.parametrize("why", Refusal)
def test_every_reason_is_kept_as_it_is(why: Refusal) -> None:
    """Also those that have the name of an outcome."""
    decisions, admission = ring()
    waits = ticket(9.0)
    decisions.arrived(1.0, "", ticket(9.0), admission, Verdict(why, 0.1))
    decisions.arrived(1.0, "", waits, admission, None)
    decisions.taken_out(2.0, waits, why)
    assert [each.why for each in read(decisions, admission).decisions] == [why, why]


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_kept_as_it_is(outcome: Outcome) -> None:
    decisions, admission = ring()
    call = ticket(9.0)
    decisions.arrived(1.0, "", call, admission, None)
    decisions.settled(call, outcome)
    assert [each.outcome for each in read(decisions, admission).decisions] == [outcome]


def many_kinds_of_calls() -> Recording:
    """A recording in which every column has a value at least once, and most lack it once."""
    decisions, admission = Decisions(), Admission[Ticket](2, 50, 2**20, 4, {"ops": 0.5})
    calls = [
        Ticket(WIDE if width else KIND, 9.0, width, caller=CURL, priority=priority)
        for priority in Priority
        for width in (None, 3)
        for _ in Refusal
    ]
    for number, (call, why) in enumerate(zip(calls, list(Refusal) * 6, strict=True)):
        verdict = None if number % 3 else Verdict(why, 0.1 * number, 3.0, bool(number % 2))
        decisions.arrived(1.0 + number / 7, f"call {number}", call, admission, verdict)
        if verdict is None and number % 2:
            decisions.taken_out(2.0 + number, call, why)
    for outcome, call in zip(Outcome, calls[1::3], strict=False):
        admission.enter(call)
        slot = admission.start(50.0, [call])
        decisions.started(50.0, slot)
        decisions.ended(51.0, slot, admission.end(51.0, slot))
        decisions.settled(call, outcome)
    return decisions.copy(NOW, WALL, admission).recording()


def test_what_is_written_can_be_read() -> None:
    recording = many_kinds_of_calls()
    read_back = Recording.from_json(json.loads("".join(recording.pieces())))
    assert (read_back.wall, read_back.server) == (recording.wall, recording.server)
    assert (read_back.kept, read_back.forgotten) == (recording.kept, recording.forgotten)
    assert read_back.server.widths == {"wide": 3}
    for one, other in zip(read_back.decisions, recording.decisions, strict=True):
        assert one.decided_at == pytest.approx(other.decided_at, abs=1e-6)
        assert rounded(one) == rounded(other)


def rounded(decision: Decision) -> list[Any]:
    values = (getattr(decision, name) for name in Decision.__slots__)
    return [round(value, 6) if isinstance(value, float) else value for value in values]


def change(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda table: table | changes


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda table: [table], "a recording must be a JSON object"),
        (change(form=2), "its form is 2, and not 1"),
        (lambda table: {k: v for k, v in table.items() if k != "kinds"}, "KeyError 'kinds'"),
        (change(wall="noon"), "'noon' is no number"),
        (change(wall=float("inf")), "inf is no number"),
        (change(kept=-1), "-1 is no count"),
        (change(kinds=[[1, 2, 3, 4, 5, 6]]), "1 is no text"),
        (change(kinds=[]), "list index out of range"),
        (change(callers=[["rest"] * 9]), "TypeError"),
        (change(columns=["request_id"]), "is not in list"),
        (change(server=7), "server must be a JSON object"),
        (change(server={"slots": 2}), "KeyError"),
        (change(calls=[[]]), "list index out of range"),
        (change(calls=7), "TypeError"),
    ],
)
def test_what_is_no_recording_is_said_to_be_none(spoil: Any, why: str) -> None:
    table = json.loads("".join(many_kinds_of_calls().pieces()))
    with pytest.raises(ValueError, match=re.escape(why)):
        Recording.from_json(spoil(table))


@pytest.mark.parametrize("column", Decision.__slots__)
def test_a_column_with_something_else_is_refused(column: str) -> None:
    """A word where a number belongs, and the other way round; flags are whatever they mean."""
    table = json.loads("".join(many_kinds_of_calls().pieces()))
    place = table["columns"].index(column)
    for row in table["calls"]:
        row[place] = {"no": "value"}
    if column in ("is_asked", "is_let_in", "for_another"):
        Recording.from_json(table)
        return
    with pytest.raises(ValueError, match=r"no|unhashable|valid"):
        Recording.from_json(table)
