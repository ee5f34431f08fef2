"""Each decision in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mlserve.admission.callers import Caller, Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.recording import Decision, Recording, ServerFacts
from mlserve.admission.verdicts import Outcome, Refusal
from mlserve.audit.explanation import about, explained, to_json

WALL = datetime(2026, 3, 1, 14, 3, 17, 112_000, tzinfo=UTC).timestamp()
LET_IN = Decision(
    request_id="one",
    kind=CostKey.from_rows("m", 3, "serving_default", 1),
    caller=Caller("rest", "curl/8.14.1", "1", "ops"),
    priority=Priority.SHEDDABLE,
    is_asked=True,
    is_let_in=True,
    for_another=False,
    why=None,
    outcome=None,
    decided_at=-10.0,
    arrived_at=-10.1,
    expires_at=-9.6,
    due_at=-9.6,
    mean=0.125,
    spread=0.0,
    seconds=0.0,
    limit=0.0,
    started_at=None,
    ended_at=None,
    demand=None,
    out_at=None,
    left_at=None,
    held=1000,
    ahead=9,
    waiting=12,
    running=2,
    together=0,
)
REFUSED = replace(LET_IN, is_let_in=False, seconds=0.21, out_at=-10.0)
STARTED = replace(LET_IN, started_at=-9.9)


def recording(*decisions: Decision) -> Recording:
    return Recording(WALL, ServerFacts(slots=2), len(decisions), 0, decisions)


def said(decision: Decision, **changes: Any) -> str:
    return explained(recording(), replace(decision, **changes))


@pytest.mark.parametrize(
    ("why", "changes", "words"),
    [
        ("queue_full", {}, "twelve calls waited, as many as may"),
        (
            "memory",
            {"limit": 4096.0},
            (
                "twelve calls waited and held nearly all of the 4096 bytes that they may, and "
                "it has 1000"
            ),
        ),
        (
            "deadline",
            {},
            (
                "behind two calls that ran and nine calls due before it, it needed about 0.61 s "
                "and had 0.4 s"
            ),
        ),
        ("deadline", {"running": 0, "ahead": 0}, "it needed about 0.61 s and had 0.4 s"),
        (
            "deadline",
            {"running": 1, "ahead": 0, "seconds": 0.0015},
            "behind one call that ran, it had 0.4 s, and needed about 1.5 ms more",
        ),
        (
            "deadline",
            {"for_another": True, "ahead": None},
            (
                "behind two calls that ran, it had time itself, but would have made another call "
                "0.21 s late"
            ),
        ),
        (
            "patience",
            {"limit": 1.0, "is_asked": False, "expires_at": 20.0},
            (
                "it set no deadline, and callers like it hang up after about 1 s: behind two calls "
                "that ran and nine calls due before it, it needed about 0.61 s and had 0.4 s"
            ),
        ),
        (
            "share",
            {"limit": 0.3},
            "its model or token had used its share, 30% of the server, and others needed theirs",
        ),
        (
            "too_slow",
            {"seconds": 0.7},
            "such a call takes about 0.7 s even when nothing else runs, and it had 0.4 s",
        ),
        ("expired", {}, "its deadline had passed before it was read"),
        ("draining", {}, "the server was about to stop"),
    ],
)
def test_a_refusal(why: str, changes: dict[str, Any], words: str) -> None:
    assert said(REFUSED, why=Refusal(why), **changes) == f"refused at 14:03:07.112Z: {words}"


@pytest.mark.parametrize(
    ("why", "words"),
    [
        (
            "displaced",
            "what was before it took longer than estimated; 0.1 s were left, and it takes 0.12 s",
        ),
        ("shed", "it gave way to a call that goes before it (it is sheddable)"),
        ("expired", "its deadline passed while it waited"),
        ("gone", "its caller left"),
        ("draining", "the server stopped before its turn came"),
    ],
)
def test_a_call_that_waited_in_vain(why: str, words: str) -> None:
    begin = "let in at 14:03:07.112Z, taken out at 14:03:07.412Z, after 0.3 s: "
    assert said(LET_IN, why=Refusal(why), out_at=-9.7) == begin + words


@pytest.mark.parametrize(
    ("outcome", "ended_at", "words"),
    [
        (Outcome.ANSWERED, -9.7, "ran for 0.2 s, and was answered 0.1 s before its deadline"),
        (Outcome.FAILED, -9.7, "ran for 0.2 s, and failed: the log says why"),
        (Outcome.LATE, -9.4, "ran for 0.5 s, and ended 0.2 s after its deadline"),
        (
            Outcome.LATE,
            -9.7,
            "ran for 0.2 s, and was given up 0.1 s before its deadline: it needed longer",
        ),
        (Outcome.GONE, -9.7, "ran for 0.2 s, and its caller had left by then"),
        (None, -9.7, "ran for 0.2 s, and its caller is being told"),
        (None, None, "and has been running since then"),
    ],
)
def test_a_call_that_was_started(
    outcome: Outcome | None, ended_at: float | None, words: str
) -> None:
    begin = "let in at 14:03:07.112Z, started after 0.1 s, "
    assert said(STARTED, outcome=outcome, ended_at=ended_at) == begin + words


def test_a_call_that_waits() -> None:
    assert said(LET_IN) == "let in at 14:03:07.112Z, and has been waiting since then"


@pytest.mark.parametrize("why", [*Refusal, None])
@pytest.mark.parametrize("decision", [LET_IN, REFUSED])
def test_no_reason_is_without_words(decision: Decision, why: Refusal | None) -> None:
    """Also the pairs that no server makes today, and a waiting call has no reason."""
    words = said(decision, why=why, out_at=-9.5)
    assert why is None or words.partition(": ")[2]


def test_who_asked_for_what() -> None:
    assert about(LET_IN) == "m version 3 (rest, curl/8.14.1, token ops)"
    nobody = replace(LET_IN, caller=Caller(), kind=CostKey.from_head(""))
    assert about(nobody) == "a call not read yet"
    on_its_head = replace(nobody, kind=CostKey.from_head("m"))
    assert about(on_its_head) == "m in a call not read yet"
    assert to_json(recording(), on_its_head)["version"] is None
    first = replace(nobody, kind=CostKey.from_length("m", 0, "", 100))
    assert about(first) == "m version 0"
    assert to_json(recording(), first)["version"] == 0


def test_as_data() -> None:
    refused = replace(REFUSED, why=Refusal.DEADLINE)
    data = to_json(recording(refused), refused)
    assert data["decided_at"] == pytest.approx(WALL - 10)
    assert data["started_at"] is None
    assert (data["needed"], data["had"]) == (pytest.approx(0.61), pytest.approx(0.4))
    assert (data["why"], data["priority"], data["ahead"]) == ("deadline", "sheddable", 9)
    assert data["in_words"] == explained(recording(refused), refused)
