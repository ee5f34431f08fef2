"""How much more time a busy server takes for its calls than the estimates say.

While no slot is free and calls wait, the time from the end of one call to the end of the next is
what a call takes of the server. If that is much more or less than the estimates say, they are wrong
in a way that they do not learn: the images are larger than calls of that kind have on average, or
one of several processes stands still. Then all of them are scaled.

The last few calls are compared with what is estimated now, and not with what was when they were
started. So a model that turns slower moves the estimates alone, as long as they follow it.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlserve.admission.estimates import CostKey, Estimates
from mlserve.admission.tickets import Ticket

_KEPT = 31 / 32
"""What the calls before count for with each that ends."""
_MEMORY = 3.0
"""Seconds without an end that counts, after which what was seen before counts for a third, and
nothing is scaled: the server has had room."""
_LEAST = 0.05
"""A count below this is forgotten."""
_FEW = 6.0
"""Ends that are evidence: two slots may well end one right after the other."""
_USUAL = 1.5
"""A factor less than this, up or down, may be chance, and changes nothing."""
_MOST = 4.0
"""The largest factor; and a stall counts for no more."""


class Pace:
    """Sets the `factor` of the estimates by the ends of the calls that were started on them."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates
        self._ends = self._took = 0.0
        self._counts: dict[tuple[CostKey, int], float] = {}
        """The calls that took so long, by their kinds and how many ran as one."""
        self._since: float | None = None
        """When the last of them ended, if calls have waited since then, and no slot was left free
        for good reason."""
        self._noted_at = -math.inf

    def end(self, now: float, tickets: Sequence[Ticket], *, was_full: bool, waits: bool) -> None:
        """Take note that these calls have ended, which ran as one.

        `was_full` says that no slot was free until now; `waits`, that some call waits for this one.
        """
        if was_full and self._since is not None:
            self._note(self._since, now, tickets)
        elif now - self._noted_at > _MEMORY:
            self._estimates.factor = 1.0
        self._since = now if was_full and waits else None

    def pause(self) -> None:
        """Do not count the time until the next end: calls wait for others, and not for a slot."""
        self._since = None

    def rest(self) -> None:
        """Take the estimates as they are, as nothing runs or waits: what comes may be different."""
        self._since, self._estimates.factor = None, 1.0

    def _note(self, since: float, now: float, tickets: Sequence[Ticket]) -> None:
        guess, together = self._estimates.measured_in_batch, len(tickets)
        most = _MOST * sum(guess(ticket.kind, together).mean for ticket in tickets)
        keeps = _KEPT * math.exp(min(0.0, self._noted_at - since) / _MEMORY)
        self._noted_at = now
        self._took = self._took * keeps + min(now - since, most)
        self._ends = self._ends * keeps + 1.0
        kept = ((key, count * keeps) for key, count in self._counts.items())
        self._counts = {key: count for key, count in kept if count >= _LEAST}
        for ticket in tickets:
            key = ticket.kind, together
            self._counts[key] = self._counts.get(key, 0.0) + 1.0
        self._estimates.factor = self._factor()

    def _factor(self) -> float:
        guess = self._estimates.measured_in_batch
        expected = sum(count * guess(*key).mean for key, count in self._counts.items())
        if self._ends < _FEW or not (expected > 0 and self._took > 0):
            return 1.0
        factor = self._took / expected
        return 1.0 if 1 / _USUAL < factor < _USUAL else min(_MOST, max(1 / _MOST, factor))
