"""Other ways to say no, each as its authors describe it, as schedulers of the simulation.

All of them remove a call from the queue once its caller has left or its deadline has passed, which
some do not in the places that they come from. Apart from that, none uses deadlines.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence

from mlserve.admission.replay import Call
from mlserve.admission.verdicts import Refusal

_CROWD = 128
"""DAGOR's levels of users."""


class Fifo:
    """Lets in every call; the first come is the first served."""

    def __init__(self) -> None:
        self._line: deque[Call] = deque()
        self.waiting = 0
        self.running = 0

    @property
    def inside(self) -> int:
        """How many calls wait or run."""
        return self.waiting + self.running

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        self._line.append(call)
        self.waiting += 1
        return None

    def take(self, now: float) -> Sequence[Call]:
        """See `Scheduler`."""
        while (call := self._pop(now)) is not None:
            self.waiting -= 1
            if self._drops(now, call):
                call.refuse(now, Refusal.DEADLINE)
                continue
            self.running += 1
            return [call]
        return ()

    def end(self, now: float, calls: Sequence[Call]) -> None:
        """See `Scheduler`."""
        self.running -= len(calls)

    def leave(self, now: float, call: Call) -> None:
        """See `Scheduler`. The call is passed over when it is next in line."""
        self.waiting -= 1

    def leave_running(self, now: float, call: Call) -> None:
        """See `Scheduler`."""

    def _pop(self, now: float) -> Call | None:
        """Return the next call whose caller still waits."""
        while self._line:
            call = self._line.popleft()
            if not call.is_decided:
                return call
        return None

    def _drops(self, now: float, call: Call) -> bool:
        """Return whether the call that is next is not to be started after all."""
        return False

    def _oldest_age(self, now: float) -> float:
        while self._line and self._line[0].is_decided:
            self._line.popleft()
        return now - self._line[0].arrived_at if self._line else 0.0


class FixedLimit(Fifo):
    """At most so many calls run and wait."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        return super().arrive(now, call) if self.inside < self._limit else Refusal.QUEUE_FULL


class CoDel(Fifo):
    """Drops at the head, more and more often, while all wait longer than `target` (RFC 8289)."""

    def __init__(self, target: float, interval: float) -> None:
        super().__init__()
        self._target, self._interval = target, interval
        self._above_until: float | None = None
        self._is_dropping = False
        self._drop_next = 0.0
        self._count = self._last_count = 0

    def _drops(self, now: float, call: Call) -> bool:
        is_above = self._is_above(now, call)
        if self._is_dropping:
            if not is_above:
                self._is_dropping = False
            elif now >= self._drop_next:
                self._count += 1
                self._drop_next += self._interval / math.sqrt(self._count)
                return True
            return False
        if not is_above:
            return False
        self._is_dropping = True
        is_recent = now - self._drop_next < 16 * self._interval
        more = self._count - self._last_count
        self._count = more if more > 1 and is_recent else 1
        self._last_count = self._count
        self._drop_next = now + self._interval / math.sqrt(self._count)
        return True

    def _is_above(self, now: float, call: Call) -> bool:
        """Return whether calls have waited too long for a whole interval."""
        if now - call.arrived_at < self._target or not self.waiting:
            self._above_until = None
            return False
        if self._above_until is None:
            self._above_until = now + self._interval
            return False
        return now >= self._above_until


class AdaptiveLifo(Fifo):
    """The newest first while the queue has not been empty for `interval` seconds.

    Those who wait may be dropped by a timeout that is `short` then and `interval` otherwise, as in
    "Fail at Scale" (Maurer, 2015); infinite is without.
    """

    def __init__(self, interval: float, short: float = math.inf) -> None:
        super().__init__()
        self._interval, self._short = interval, short
        self._was_empty = 0.0

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        if not self.waiting:
            self._was_empty = now
        return super().arrive(now, call)

    def _stands(self, now: float) -> bool:
        return now - self._was_empty > self._interval

    def _pop(self, now: float) -> Call | None:
        if not self._stands(now):
            return super()._pop(now)
        while self._line:
            call = self._line.pop()
            if not call.is_decided:
                return call
        return None

    def _drops(self, now: float, call: Call) -> bool:
        if not self.waiting:
            self._was_empty = now
        timeout = self._short if self._stands(now) else max(self._interval, self._short)
        return now - call.arrived_at > timeout


class GradientLimit(Fifo):
    """A limit on calls inside that follows how latency changes (Netflix's Gradient2).

    The figures that are not arguments are the defaults of Netflix's concurrency-limits.
    """

    def __init__(self, tolerance: float = 1.5, spare: float = 4.0) -> None:
        super().__init__()
        self._tolerance, self._spare = tolerance, spare
        self._limit, self._long, self._seen = 20.0, 0.0, 0
        self._then: dict[Call, int] = {}

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        if self.inside >= self._limit:
            return Refusal.QUEUE_FULL
        self._then[call] = self.inside + 1
        return super().arrive(now, call)

    def leave(self, now: float, call: Call) -> None:
        """See `Scheduler`."""
        super().leave(now, call)
        self._sample(now, call)

    def end(self, now: float, calls: Sequence[Call]) -> None:
        """See `Scheduler`."""
        super().end(now, calls)
        for call in calls:
            self._sample(now, call)

    def _sample(self, now: float, call: Call) -> None:
        inside, latency = self._then.pop(call), max(now - call.arrived_at, 1e-6)
        self._seen += 1
        if self._seen <= 10:
            self._long += (latency - self._long) / self._seen
        else:
            self._long += (latency - self._long) * 2 / 601
        if self._long / latency > 2:
            self._long *= 0.95
        if inside < self._limit / 2:
            return
        gradient = max(0.5, min(1.0, self._tolerance * self._long / latency))
        limit = self._limit * gradient + self._spare
        self._limit = min(200.0, max(20.0 / 5, 0.8 * self._limit + 0.2 * limit))


class Dagor(Fifo):
    """A level of users below which calls are refused (DAGOR, Zhou et al., SoCC 2018).

    The level follows how long calls wait in the queue, window by window. Here every call is of a
    user of its own.
    """

    def __init__(self, longest_wait: float, window: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self._longest_wait, self._window = longest_wait, window
        self._chance = random.Random(seed)
        self._level = _CROWD
        self._ends = window
        self._arrived = [0] * _CROWD
        self._admitted = 0
        self._waited, self._started = 0.0, 0

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        if now >= self._ends or sum(self._arrived) >= 2000:
            self._turn(now)
        level = self._chance.randrange(_CROWD)
        self._arrived[level] += 1
        if level >= self._level:
            return Refusal.DEADLINE
        self._admitted += 1
        return super().arrive(now, call)

    def _drops(self, now: float, call: Call) -> bool:
        self._waited += now - call.arrived_at
        self._started += 1
        return False

    def _turn(self, now: float) -> None:
        """Set the level for the next window."""
        waited = max(self._waited / max(self._started, 1), 0.0)
        if not self._started:
            waited = self._oldest_age(now)
        is_overloaded = waited > self._longest_wait
        wanted = self._admitted * (0.95 if is_overloaded else 1.01)
        level, below = self._level, sum(self._arrived[: self._level])
        if is_overloaded:
            while level > 1 and below > wanted:
                level -= 1
                below -= self._arrived[level]
        else:
            level = min(level + 1, _CROWD)  # at least one, as a level may be empty
            while level < _CROWD and below < wanted:
                below += self._arrived[level]
                level += 1
        self._level = level
        self._ends = now + self._window
        self._arrived = [0] * _CROWD
        self._admitted = self._started = 0
        self._waited = 0.0


class Credits(Fifo):
    """Clients send only with a credit of the server's, after Breakwater (Cho et al., OSDI 2020).

    The pool of credits grows step by step while the oldest in the queue waits less than `target`,
    and shrinks by how much longer it waits. What waits longer than twice that is dropped. Simpler
    than Breakwater, and better off: demand is known without a message, and a client without a
    credit gives up at once.
    """

    _EVERY = 0.01
    _CLIENTS = 100

    def __init__(self, target: float) -> None:
        super().__init__()
        self._target = target
        self._pool = 10.0
        self._next = 0.0

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        if now >= self._next:
            self._adapt(now)
        if self.inside >= self._pool:
            return Refusal.QUEUE_FULL
        if self._oldest_age(now) > 2 * self._target:
            return Refusal.DEADLINE
        return super().arrive(now, call)

    def _adapt(self, now: float) -> None:
        waits = self._oldest_age(now)
        if waits < self._target:
            if self.inside >= self._pool / 2:  # else the credits go unused
                self._pool += max(1.0, 0.001 * self._CLIENTS)
        else:
            self._pool *= max(0.5, 1 - 0.02 * (waits - self._target) / self._target)
        self._pool = max(1.0, self._pool)
        self._next = now + self._EVERY
