"""What a client is told that is not let in, or let go: an error that says whether to come back.

Overloaded is for what a later try can mend. Where none can, as the model needs longer than the
client waits or the time is gone, it is DeadlineExceeded, which no client asks again after.
"""

from __future__ import annotations

from mlserve.deadline import Deadline, in_words
from mlserve.errors import DeadlineExceeded, MlserveError, Overloaded
from mlserve.server.work.admission import Verdict
from mlserve.server.work.job import IN_QUEUE
from mlserve.server.work.observer import Refusal

_MORE_TIME = "give the call more time with --timeout, or serve the model on a faster machine"


def as_error(verdict: Verdict, deadline: Deadline, *, running: int, waiting: int) -> MlserveError:
    """The error of a call with that verdict, by what runs and waits now."""
    seconds, timeout = in_words(verdict.seconds), in_words(deadline.timeout)
    match verdict.why:
        case Refusal.QUEUE_FULL:
            return Overloaded(
                f"{running} requests run and {waiting} wait: the queue is full",
                hint="send fewer requests at once, or start another server",
                retry_after=verdict.seconds,
            )
        case Refusal.DEADLINE:
            return Overloaded(
                f"{running} requests run and {waiting} wait: the answer would come about {seconds} "
                f"after the deadline of {timeout}, or make another one late",
                hint="give the call more time with --timeout, or start another server",
                retry_after=verdict.seconds,
            )
        case Refusal.TOO_SLOW:
            return DeadlineExceeded(
                f"no answer within {timeout}: the model needs about {seconds}, also when nothing "
                "else runs",
                hint=_MORE_TIME,
            )
        case Refusal.DISPLACED:
            return DeadlineExceeded(
                f"no answer within {timeout}: it was {IN_QUEUE} until too little was left of it "
                f"for the model, which needs about {seconds} now",
                hint="give the call more time with --timeout, or start another server",
            )
    return deadline.exceeded(IN_QUEUE)
