"""Why a call was not started, and how those that were started ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mlserve.deadline import Deadline, in_words
from mlserve.errors import DeadlineExceeded, MlserveError, Overloaded

IN_QUEUE = "waiting in the server's queue"
_MORE_TIME = "give the call more time with --timeout, or serve the model on a faster machine"
_OR_ANOTHER_SERVER = "give the call more time with --timeout, or start another server"
_FEWER = "send fewer requests at once, or start another server"


class Refusal(StrEnum):
    """Why the engine did not start a call."""

    QUEUE_FULL = "queue_full"
    """As many calls waited as may."""
    MEMORY = "memory"
    """The calls that waited held as many bytes as they may."""
    DEADLINE = "deadline"
    """By the estimates it could not end in time; decided on arrival."""
    PATIENCE = "patience"
    """It sets no deadline, and by then callers like this one have hung up; decided on arrival."""
    SHARE = "share"
    """Its model or its token had its share of the server's time, and others needed theirs."""
    SHED = "shed"
    """It waited, and gave way to a more important call, or to a model that had less than its share.
    """
    TOO_SLOW = "too_slow"
    """By the estimates even an idle server could not end it in time; decided on arrival."""
    DISPLACED = "displaced"
    """It was admitted, but work that took longer than estimated left it too little time."""
    EXPIRED = "expired"
    """Its deadline passed before it was started."""
    DRAINING = "draining"
    """The server is about to stop."""
    GONE = "gone"
    """Its client left before it was started."""


class Outcome(StrEnum):
    """How a call that the engine started ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    """Its deadline passed while it ran."""
    GONE = "gone"
    """Its client left while it ran."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a call is not admitted or not started.

    `seconds` is how long such a call takes for TOO_SLOW and DISPLACED, and else when to retry. For
    PATIENCE, `limit` is how long callers like this one wait, in seconds; for MEMORY, how many bytes
    may be held; for SHARE, the share. A call is refused `for_another` if only one that is due after
    it would be late.
    """

    why: Refusal
    seconds: float
    limit: float = 0.0
    for_another: bool = False

    @property
    def is_for_time(self) -> bool:
        """Whether there was not enough time for it, rather than no place or memory."""
        return self.why not in (Refusal.QUEUE_FULL, Refusal.MEMORY)


def error_of(verdict: Verdict, deadline: Deadline, running: int, waiting: int) -> MlserveError:
    """Return the error for that verdict, with how many calls run and wait."""
    busy = f"{running} requests are running and {waiting} waiting"
    match verdict.why:
        case Refusal.TOO_SLOW | Refusal.DISPLACED:
            return _without_time(verdict, deadline)
        case Refusal.QUEUE_FULL:
            said, hint = f"{busy}: the queue is full", _FEWER
        case Refusal.MEMORY:
            most = f"{verdict.limit:.0f} bytes (--max-queue-bytes)"
            said, hint = f"{busy}: they may hold {most} together", _FEWER
        case Refusal.DEADLINE:
            late = in_words(verdict.seconds)
            timeout = in_words(deadline.timeout)
            said = f"{busy}: the answer would come about {late} after the deadline of {timeout}"
            if verdict.for_another:
                said = f"{busy}: the answer would make another one come about {late} late"
            hint = _OR_ANOTHER_SERVER
        case Refusal.PATIENCE:
            patience = in_words(verdict.limit)
            said = (
                f"{busy}: the answer would come too late for callers like this one, who set no "
                f"deadline and hang up after about {patience}: set one to wait longer"
            )
            if verdict.for_another:
                said = (
                    f"{busy}: callers like this one set no deadline and hang up after about "
                    f"{patience}, and an answer by then would make another one come about "
                    f"{in_words(verdict.seconds)} late: set a deadline to wait longer"
                )
            hint = "give the call a deadline: X-Request-Timeout-Ms over REST"
        case Refusal.SHARE:
            said = (
                f"{busy}: its model or token has used its share of the server, "
                f"{verdict.limit:.0%}, and others need theirs"
            )
            hint = _FEWER
        case Refusal.SHED:
            said = f"{busy}: it gave way to a call that goes before it"
            hint = "try again later, or send it with a higher priority"
        case _:
            return deadline.exceeded(IN_QUEUE)
    return Overloaded(said, hint=hint, retry_after=verdict.seconds)


def _without_time(verdict: Verdict, deadline: Deadline) -> DeadlineExceeded:
    seconds, timeout = in_words(verdict.seconds), in_words(deadline.timeout)
    if verdict.why is Refusal.TOO_SLOW:
        return DeadlineExceeded(
            f"no answer within {timeout}: the model needs about {seconds}, even when nothing else "
            "runs",
            hint=_MORE_TIME,
        )
    return DeadlineExceeded(
        f"no answer within {timeout}: it was {IN_QUEUE} until too little time was left for the "
        f"model, which now needs about {seconds}",
        hint=_OR_ANOTHER_SERVER,
    )
