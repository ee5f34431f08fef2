"""A decision in words: why a call was refused, or what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlserve.admission.recording import Decision, Recording
from mlserve.admission.verdicts import Outcome, Refusal
from mlserve.deadline import in_words

_WORDS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
"""Numbers that are written as words."""


def explained(recording: Recording, decision: Decision) -> str:
    """Return why the call was refused, or what became of it, with the time of day in UTC."""
    if decision.is_let_in:
        return _of_one_let_in(recording, decision)
    return f"refused at {_clock(recording, decision.decided_at)}: {_why_not_let_in(decision)}"


def about(decision: Decision) -> str:
    """Return who asked for what: the model and the caller.

    A call that was refused on its head may have asked for any version.
    """
    kind, caller = decision.kind, decision.caller
    version = f"version {kind.version}" if kind.has_version else "in a call not read yet"
    asked = f"{kind.model} {version}" if kind.model else "a call not read yet"
    token = f"token {caller.token}" if caller.token else ""
    by = ", ".join(filter(None, (caller.transport, caller.agent, token)))
    return f"{asked}{f' ({by})' if by else ''}"


def to_json(recording: Recording, decision: Decision) -> dict[str, Any]:
    """Return the decision as data, with its explanation; times of day in seconds since 1970."""
    moments = {
        name: None if value is None else round(recording.at(value), 6)
        for name in (
            *("arrived_at", "decided_at", "due_at", "expires_at"),
            *("started_at", "ended_at", "out_at", "left_at"),
        )
        for value in (getattr(decision, name),)
    }
    return {
        "request_id": decision.request_id,
        "model": decision.kind.model,
        "version": decision.kind.version if decision.kind.has_version else None,
        "signature": decision.kind.signature,
        "transport": decision.caller.transport,
        "agent": decision.caller.agent,
        "token": decision.caller.token,
        "priority": decision.priority.in_words,
        "is_asked": decision.is_asked,
        "is_let_in": decision.is_let_in,
        "why": decision.why,
        "outcome": decision.outcome,
        **moments,
        "estimate": decision.mean,
        "needed": needed(decision),
        "had": decision.due_at - decision.decided_at,
        "demand": decision.demand,
        "ahead": decision.ahead,
        "waiting": decision.waiting,
        "running": decision.running,
        "in_words": explained(recording, decision),
    }


def needed(decision: Decision) -> float | None:
    """Return the seconds that the call would have needed, by the estimates and with their margin.

    None where the verdict was not about time, or not about this call's own.
    """
    if decision.is_let_in or decision.for_another:
        return None
    if decision.why is Refusal.TOO_SLOW:
        return decision.seconds
    if decision.why in (Refusal.DEADLINE, Refusal.PATIENCE):
        return decision.due_at - decision.decided_at + decision.seconds
    return None


def _why_not_let_in(decision: Decision) -> str:
    had = in_words(max(0.0, decision.due_at - decision.decided_at))
    match decision.why:
        case Refusal.QUEUE_FULL:
            why = f"{_calls(decision.waiting)} waited, as many as may"
        case Refusal.MEMORY:
            why = (
                f"{_calls(decision.waiting)} waited and held nearly all of the "
                f"{decision.limit:.0f} bytes that they may, and it has {decision.held}"
            )
        case Refusal.DEADLINE:
            why = _without_time(decision, had)
        case Refusal.PATIENCE:
            why = (
                f"it set no deadline, and callers like it hang up after about "
                f"{in_words(decision.limit)}: {_without_time(decision, had)}"
            )
        case Refusal.SHARE:
            why = (
                f"its model or token had used its share, {decision.limit:.0%} of the server, "
                "and others needed theirs"
            )
        case Refusal.TOO_SLOW:
            takes = in_words(decision.seconds)
            why = f"such a call takes about {takes} even when nothing else runs, and it had {had}"
        case Refusal.EXPIRED:
            why = "its deadline had passed before it was read"
        case Refusal.DRAINING:
            why = "the server was about to stop"
        case _:
            why = _in_plain(decision.why)
    return why


def _without_time(decision: Decision, had: str) -> str:
    """Return how the call, or one that is due after it, would have been late."""
    before = _before_it(decision)
    takes = needed(decision)
    if takes is None:
        late = in_words(decision.seconds)
        return f"{before}it had time itself, but would have made another call {late} late"
    if in_words(takes) == had:
        return f"{before}it had {had}, and needed about {in_words(decision.seconds)} more"
    return f"{before}it needed about {in_words(takes)} and had {had}"


def _before_it(decision: Decision) -> str:
    """Return what was before the call: `behind two calls that ran and nine due before it, `."""
    ran = f"{_calls(decision.running)} that ran" if decision.running else ""
    due = f"{_calls(decision.ahead)} due before it" if decision.ahead else ""
    others = " and ".join(filter(None, (ran, due)))
    return f"behind {others}, " if others else ""


def _of_one_let_in(recording: Recording, decision: Decision) -> str:
    told = f"let in at {_clock(recording, decision.decided_at)}"
    if decision.started_at is not None:
        waited = in_words(decision.started_at - decision.decided_at)
        return f"{told}, started after {waited}, {_how_it_ended(decision, decision.started_at)}"
    if decision.out_at is None:
        return f"{told}, and has been waiting since then"
    waited = in_words(decision.out_at - decision.decided_at)
    out = f"taken out at {_clock(recording, decision.out_at)}, after {waited}"
    return f"{told}, {out}: {_why_taken_out(decision, decision.out_at)}"


def _why_taken_out(decision: Decision, out_at: float) -> str:
    match decision.why:
        case Refusal.DISPLACED:
            takes = "" if decision.mean is None else f", and it takes {in_words(decision.mean)}"
            left = in_words(max(0.0, decision.expires_at - out_at))
            why = f"what was before it took longer than estimated; {left} were left{takes}"
        case Refusal.SHED:
            why = f"it gave way to a call that goes before it (it is {decision.priority.in_words})"
        case Refusal.EXPIRED:
            why = "its deadline passed while it waited"
        case Refusal.GONE:
            why = "its caller left"
        case Refusal.DRAINING:
            why = "the server stopped before its turn came"
        case _:
            why = _in_plain(decision.why)
    return why


def _how_it_ended(decision: Decision, started_at: float) -> str:
    if decision.ended_at is None:
        return "and has been running since then"
    ran = f"ran for {in_words(decision.ended_at - started_at)}"
    left = decision.expires_at - decision.ended_at
    match decision.outcome:
        case Outcome.ANSWERED:
            how = f"and was answered {in_words(left)} before its deadline"
        case Outcome.FAILED:
            how = "and failed: the log says why"
        case Outcome.LATE if left < 0:
            how = f"and ended {in_words(-left)} after its deadline"
        case Outcome.LATE:
            how = f"and was given up {in_words(left)} before its deadline: it needed longer"
        case Outcome.GONE:
            how = "and its caller had left by then"
        case None:
            how = "and its caller is being told"
    return f"{ran}, {how}"


def _in_plain(why: Refusal | None) -> str:
    return "" if why is None else why.replace("_", " ")


def _calls(count: int) -> str:
    """Return that many calls in words: `nine calls`."""
    number = _WORDS[count] if count < len(_WORDS) else str(count)
    return f"{number} call{'' if count == 1 else 's'}"


def _clock(recording: Recording, moment: float) -> str:
    """Return the time of day in UTC with milliseconds, as the log has it: `14:03:07.112Z`."""
    return f"{datetime.fromtimestamp(recording.at(moment), UTC):%H:%M:%S.%f}"[:-3] + "Z"
