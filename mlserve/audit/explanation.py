"""A decision in words: why a call was refused, or what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlserve.admission.recording import Decision, Recording
from mlserve.admission.verdicts import Outcome, Refusal
from mlserve.deadline import in_words

_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def explained(recording: Recording, decision: Decision) -> str:
    """Return why the call was refused, or what became of it, with the time of day in UTC."""
    if decision.is_let_in:
        return _of_one_let_in(recording, decision)
    return f"refused at {_clock(recording, decision.decided_at)}: {_why_not_let_in(decision)}"


def about(decision: Decision) -> str:
    """Return who asked for what: the model, the caller, and the time that the call had."""
    kind, caller = decision.kind, decision.caller
    asked = f"{kind.model} version {kind.version}" if kind.model else "a call not read yet"
    by = ", ".join(filter(None, (caller.transport, caller.agent, caller.token and "token")))
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
        "version": decision.kind.version,
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
    """Return how many seconds such a call would have needed, as the verdict says; None if not."""
    match decision.why:
        case Refusal.DEADLINE | Refusal.PATIENCE if not decision.is_let_in:
            return decision.due_at - decision.decided_at + decision.seconds
        case Refusal.TOO_SLOW if not decision.is_let_in:
            return decision.seconds
    return None


def _why_not_let_in(decision: Decision) -> str:
    had = in_words(max(0.0, decision.due_at - decision.decided_at))
    takes = in_words(needed(decision) or decision.seconds)
    match decision.why:
        case Refusal.QUEUE_FULL:
            return f"{_calls(decision.waiting)} waited, as many as may"
        case Refusal.DEADLINE:
            return f"{_before_it(decision)} needed {takes}, it had {had}"
        case Refusal.TOO_SLOW:
            return f"such a call takes about {takes} even when nothing else runs, it had {had}"
        case Refusal.EXPIRED:
            return "its deadline had passed before it was read"
        case Refusal.DRAINING:
            return "the server was about to stop"
    return "" if decision.why is None else decision.why.replace("_", " ")


def _of_one_let_in(recording: Recording, decision: Decision) -> str:
    told = f"let in at {_clock(recording, decision.decided_at)}"
    if decision.started_at is not None:
        waited = decision.started_at - decision.decided_at
        return f"{told}, started after {in_words(waited)}, {_how_it_ended(decision)}"
    if decision.out_at is None:
        return f"{told}, waiting since then, behind {_calls(decision.waiting)} that waited"
    waited = decision.out_at - decision.decided_at
    out = f"taken out at {_clock(recording, decision.out_at)}, after {in_words(waited)}"
    return f"{told}, {out}: {_why_taken_out(decision, decision.out_at)}"


def _why_taken_out(decision: Decision, out_at: float) -> str:
    left = in_words(max(0.0, decision.expires_at - out_at))
    match decision.why:
        case Refusal.DISPLACED:
            usual = (
                ""
                if decision.mean is None
                else f", and such a call takes about {in_words(decision.mean)}"
            )
            return f"the work before it took longer than estimated: {left} were left{usual}"
        case Refusal.EXPIRED:
            return "its deadline passed while it waited"
        case Refusal.GONE:
            return "its caller left while it waited"
        case Refusal.DRAINING:
            return "the server stopped before its turn came"
    return "" if decision.why is None else decision.why.replace("_", " ")


def _how_it_ended(decision: Decision) -> str:
    if decision.ended_at is None:
        return "running since then"
    ran = "ran for"
    if decision.started_at is not None:
        ran = f"ran for {in_words(decision.ended_at - decision.started_at)}"
    left = decision.expires_at - decision.ended_at
    match decision.outcome:
        case Outcome.ANSWERED:
            return f"{ran}, answered {in_words(left)} before its deadline"
        case Outcome.FAILED:
            return f"{ran}, and failed: the log says why"
        case Outcome.LATE if left < 0:
            return f"{ran}, and ended {in_words(-left)} after its deadline"
        case Outcome.LATE:
            return f"{ran}, and was given up {in_words(left)} before its deadline: it needed longer"
        case Outcome.GONE:
            return f"{ran}, for a caller who had left"
    return f"{ran}; its caller is being told"


def _before_it(decision: Decision) -> str:
    """Return what ran and what was due before the call: `two calls that ran and nine due ...`."""
    due = f"{_calls(decision.ahead)} due before it" if decision.ahead else ""
    ran = f"{_calls(decision.running)} that ran" if decision.running else ""
    others = " and ".join(filter(None, (due, ran)))
    return f"{others} and the call itself" if others else "the call itself"


def _calls(count: int) -> str:
    """Return that many calls in words: `nine calls`."""
    number = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    return f"{number} call{'' if count == 1 else 's'}"


def _clock(recording: Recording, moment: float) -> str:
    """Return the time of day in UTC with milliseconds, as the log has it: `14:03:07.112Z`."""
    return f"{datetime.fromtimestamp(recording.at(moment), UTC):%H:%M:%S.%f}"[:-3] + "Z"
