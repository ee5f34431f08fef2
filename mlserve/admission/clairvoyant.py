"""What a scheduler would have answered that knows how long calls take and when callers leave.

It serves the earliest due first (EDF), on the same slots. It lets a call in if that one and all
that it has let in end in time, of which it is certain. So it starts nothing in vain, and refuses
only what cannot be had beside what it has promised. That is a yardstick and no bound: one that
knows the future arrivals, too, could refuse a long call for the sake of several short ones.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence

from mlserve.admission.replay import Arrival, Call
from mlserve.admission.verdicts import Refusal

_Lanes = tuple[tuple[float, float], ...]
"""Of each slot: what the meter shows when it becomes free, and when the call in it is due."""
_ROUNDING = 1e-9


def clairvoyant(arrivals: Iterable[Arrival], slots: int) -> list[bool]:
    """Return of each arrival whether its caller would have been answered in time.

    `arrivals` are ordered by `at`. The server is that of `replay.simulate`, with that many slots.
    """
    plan = _Plan(slots)
    return [plan.admits(arrival) for arrival in arrivals]


class Clairvoyant:
    """The same as a `Scheduler`, for when each of the answers comes. None of them is late."""

    def __init__(self, slots: int) -> None:
        self._plan = _Plan(slots)
        self._line: list[Call] = []

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        if not self._plan.admits(call.arrival):
            return Refusal.DEADLINE
        insort(self._line, call, key=_due)
        return None

    def take(self, now: float) -> Sequence[Call]:
        """See `Scheduler`."""
        return [self._line.pop(0)] if self._line else ()

    def end(self, now: float, calls: Sequence[Call]) -> None:
        """See `Scheduler`."""

    def leave(self, now: float, call: Call) -> None:
        """See `Scheduler`: by the plan, nobody has to wait so long."""
        self._line.remove(call)

    def leave_running(self, now: float, call: Call) -> None:
        """See `Scheduler`."""


def _due(call: Call) -> float:
    return call.arrival.due


class _Plan:
    """What runs and waits, with the end of each: all that is let in goes as planned.

    The plan is in what a `Meter` shows, as nothing that arrives later changes that, for those
    before it in line. While every slot is taken, it advances by one in as many seconds as there
    are slots.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._now = self._shown = 0.0
        self._running: _Lanes = ()
        self._dues: list[float] = []
        self._demands: list[float] = []
        self._before: list[_Lanes] = []
        """The slots before each waiting call gets one."""
        self._last: _Lanes = ()
        """The slots behind the last that waits; what runs if none does."""

    def admits(self, arrival: Arrival) -> bool:
        """Return whether the call can be answered beside those let in; if so, let it in."""
        self._advance(arrival.at)
        if len(self._running) < self._slots:
            lanes = tuple(sorted([*self._running, (self._shown + arrival.demand, arrival.due)]))
            if not self._ends_in_time(lanes, self._shown):
                return False
            self._running = self._last = lanes
            return True
        return self._insert(arrival)

    def _insert(self, arrival: Arrival) -> bool:
        """Put the call into the line if that makes none late."""
        place = bisect_right(self._dues, arrival.due)
        first = lanes = self._before[place] if place < len(self._before) else self._last
        dues, demands = [arrival.due, *self._dues[place:]], [arrival.demand, *self._demands[place:]]
        before, start = [], 0.0
        # The meter shows this at the moment when each call is due, as long as all slots are taken.
        offset, rate = self._shown - self._now / self._slots, 1 / self._slots
        late_by_meter = []
        for due, demand in zip(dues, demands, strict=True):
            before.append(lanes)
            start = lanes[0][0]
            end = start + demand
            if end > offset + due * rate + _ROUNDING:
                late_by_meter.append((end, due))
            lanes = tuple(sorted((*lanes[1:], (end, due))))
        # Those that end after the last start have more of the server to themselves by then.
        if any(end <= start for end, _ in late_by_meter):
            return False
        passed = (lane for lane in first if lane[0] <= start)
        if any(end > offset + due * rate + _ROUNDING for end, due in passed):
            return False
        if not self._ends_in_time(lanes, start):
            return False
        self._dues[place:], self._demands[place:], self._before[place:] = dues, demands, before
        self._last = lanes
        return True

    def _ends_in_time(self, lanes: _Lanes, shown: float) -> bool:
        """Return whether these calls end in time if none starts once the meter shows that."""
        now = self._now + (shown - self._shown) * self._slots
        for index, (end, due) in enumerate(lanes):
            now += (end - shown) * (len(lanes) - index)
            shown = end
            if now > due + _ROUNDING:
                return False
        return True

    def _advance(self, now: float) -> None:
        while self._running:
            first = self._running[0]
            ends_at = self._now + (first[0] - self._shown) * len(self._running)
            if ends_at > now:
                self._shown += (now - self._now) / len(self._running)
                break
            self._now, self._shown = ends_at, first[0]
            self._running = self._running[1:]
            if self._dues:
                lane = self._shown + self._demands[0], self._dues[0]
                self._running = tuple(sorted((*self._running, lane)))
                del self._dues[0], self._demands[0], self._before[0]
        if not self._dues:
            self._last = self._running
        self._now = now
