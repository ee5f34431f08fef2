"""What a scheduler would have answered that knows how long calls take and when callers leave.

It serves the earliest due first (EDF), one at a time with the whole server, and interrupts a call
for one that is due earlier. It lets a call in if that one and all that it has let in end in time,
of which it is certain: EDF finds a way if there is any. So it starts nothing in vain, and refuses
only what cannot be had beside what it has promised. That is a yardstick and no bound: one that
knows the future arrivals, too, could refuse a long call for the sake of several short ones.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

from mlserve.admission.replay import Arrival

_ROUNDING = 1e-9


def clairvoyant(arrivals: Iterable[Arrival]) -> list[float | None]:
    """Return of each arrival when its answer would come, in seconds; None if it is refused.

    `arrivals` are ordered by `at`. The server is that of `replay.simulate`: it does one second of
    demand in a second.
    """
    line = _Line()
    for arrival in arrivals:
        line.arrive(arrival)
    line.run_until(math.inf)
    return line.answered_at


class _Line:
    """The calls let in, by when they are due, and when each will end if no other comes."""

    def __init__(self) -> None:
        self.answered_at: list[float | None] = []
        """Of each arrival so far; while it waits, that is not the last word."""
        self._dues: list[float] = []
        self._ends: list[float] = []
        self._numbers: list[int] = []

    def arrive(self, arrival: Arrival) -> None:
        """Let the call in if that makes none late."""
        self.run_until(arrival.at)
        place = bisect_right(self._dues, arrival.due)
        end = arrival.demand + (self._ends[place - 1] if place else arrival.at)
        later = [behind + arrival.demand for behind in self._ends[place:]]
        dues = [arrival.due, *self._dues[place:]]
        number = len(self.answered_at)
        self.answered_at.append(None)
        if any(e > due + _ROUNDING for e, due in zip([end, *later], dues, strict=True)):
            return
        self._dues.insert(place, arrival.due)
        self._numbers.insert(place, number)
        self._ends[place:] = [end, *later]

    def run_until(self, moment: float) -> None:
        """Answer those that have ended by then."""
        done = bisect_right(self._ends, moment)
        for number, end in zip(self._numbers[:done], self._ends[:done], strict=True):
            self.answered_at[number] = end
        del self._numbers[:done], self._ends[:done], self._dues[:done]
