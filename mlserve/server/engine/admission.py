"""Who is let in, and who runs next: decided by deadlines and estimates.

The queue is in the order of the deadlines. A call is let in when, by the estimates, it ends in time
behind everything that runs and everything that is due before it, and makes nobody late who is due
after it. So short deadlines get past long ones as far as those can spare the time.

    check -> enter -> next -> start -> end          leave: a client that has gone

Nothing here looks at a clock or knows of asyncio: the caller gives the time, in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heapreplace
from typing import Protocol

from mlserve.server.engine.estimates import CostKey, Estimates, Meter
from mlserve.server.request import StageTimes


class Refusal(StrEnum):
    """Why a call was not started."""

    QUEUE_FULL = "queue_full"
    """No place to wait in."""
    DEADLINE = "deadline"
    """By the estimates it could not end in time; told on arrival."""
    TOO_SLOW = "too_slow"
    """By the estimates not even an idle server would end it in time; told on arrival."""
    DISPLACED = "displaced"
    """It was admitted, and work that took longer than estimated left it too little time."""
    EXPIRED = "expired"
    """Its deadline passed before it was started."""
    DRAINING = "draining"
    """The server is about to stop."""
    GONE = "gone"
    """Its client left before it was started."""


class Outcome(StrEnum):
    """How a call that was started ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    """Its deadline passed while it was worked on."""
    GONE = "gone"
    """Its client left while it was worked on."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A call whose work has ended. `signature` is empty when decoding did not get that far."""

    model: str
    version: int
    signature: str
    outcome: Outcome
    times: StageTimes


@dataclass(frozen=True, slots=True)
class Execution:
    """A run of the model that gave outputs, for one call or for several as a batch.

    `rows` are those of all its calls together; the times are seconds, of decoding and encoding all
    calls, and of the run.
    """

    model: str
    version: int
    rows: int
    decode: float
    run: float
    encode: float


class Observer(Protocol):
    """Told on the event loop's thread; must return at once and not raise."""

    def refused(self, why: Refusal) -> None:
        """A call was not started."""

    def ended(self, call: Ended) -> None:
        """The work of a call has ended, its slot is free again."""

    def batch(self, size: int) -> None:
        """That many calls were run as one; told where batching is on."""

    def executed(self, run: Execution) -> None:
        """The model was run and gave outputs."""


class _Unobserved:
    def refused(self, why: Refusal) -> None:
        return

    def ended(self, call: Ended) -> None:
        return

    def batch(self, size: int) -> None:
        return

    def executed(self, run: Execution) -> None:
        return


UNOBSERVED: Observer = _Unobserved()
"""The observer that keeps nothing."""


_MARGIN = 3.0
"""Mean deviations that a call must have to spare to be let in: about 99 of 100 then end in time."""
_LAST_MARGIN = 2.0
"""The same for a call that is about to start, with less ahead of it to go wrong."""
_DRIFT = 0.08
"""The part by which all calls together may take longer than estimated: a machine gets busier."""
_WAY_BACK = 0.005
"""Seconds for the answer's way to the client."""
_UNKNOWN_WAIT = 1.0
"""When to come back, in seconds, as long as nothing has been measured."""
_SHORTEST_WAIT = 0.001


@dataclass(eq=False, slots=True)
class Ticket:
    """A call as admission sees it: what it is alike, and when its answer is due."""

    kind: CostKey
    expires_at: float


@dataclass(eq=False, slots=True)
class Slot:
    """Work that has been started together, and what the meter showed then."""

    works: Sequence[Ticket]
    shown: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why work is not let in or not started.

    `seconds` is when to come back for QUEUE_FULL and DEADLINE, and how long such work takes for
    TOO_SLOW and DISPLACED.
    """

    why: Refusal
    seconds: float


@dataclass(slots=True)
class Admission:
    """The queue and the slots of a server: at most `slots` run at once, `max_waiting` wait.

    Up to `max_batch` of those that wait may run as one, in one slot.
    """

    slots: int
    max_waiting: int
    max_batch: int = 1
    estimates: Estimates = field(default_factory=Estimates)
    waiting: list[Ticket] = field(default_factory=list)
    running: list[Slot] = field(default_factory=list)
    _meter: Meter = field(default_factory=Meter)

    def check(self, now: float, work: Ticket) -> Verdict | None:
        """Why that work is not to be let in; None when it is."""
        verdict = self.check_room(now) or self.check_kind(now, work.kind, work.expires_at)
        if verdict is not None or not (self.running or self.waiting):
            return verdict
        over = self._overrun(now, work)
        return None if over <= 0 else Verdict(Refusal.DEADLINE, max(over, _SHORTEST_WAIT))

    def check_room(self, now: float) -> Verdict | None:
        """Why no work at all is to be let in; None when there is a place for it."""
        if len(self.running) < self.slots or len(self.waiting) < self.max_waiting:
            return None
        return Verdict(Refusal.QUEUE_FULL, self._next_end(now))

    def check_kind(self, now: float, kind: CostKey, expires_at: float) -> Verdict | None:
        """Why work of that kind cannot end in time even if nothing else runs; None when it can."""
        estimate = self.estimates.of(kind, now)
        if estimate is None or not estimate.is_sure or estimate.least <= expires_at - now:
            return None
        # What has not been read may turn out to be fast, however slow those of its length were.
        return Verdict(Refusal.TOO_SLOW, estimate.mean) if kind.is_read else None

    def enter(self, work: Ticket) -> None:
        """Puts it into the queue."""
        insort(self.waiting, work, key=_due)

    def leave(self, work: Ticket) -> bool:
        """Takes it out of the queue; False when it was not in it."""
        if work not in self.waiting:
            return False
        self.waiting.remove(work)
        return True

    def has_slot(self) -> bool:
        """Whether a slot is free."""
        return len(self.running) < self.slots

    def judge(self, now: float, work: Ticket) -> Verdict | None:
        """Why the work at the head of the queue is not to be started; None when it is."""
        left = work.expires_at - now
        if left <= 0:
            return Verdict(Refusal.EXPIRED, 0.0)
        estimate = self.estimates.of(work.kind, now)
        if estimate is None or not estimate.is_sure:
            return None
        others = len(self.running) + len(self.waiting) - 1
        at_once = min(self.slots, others + 1)
        needed = estimate.least
        if others:
            needed = at_once * (estimate.mean + _LAST_MARGIN * estimate.spread) + _WAY_BACK
        return None if needed <= left else Verdict(Refusal.DISPLACED, at_once * estimate.mean)

    def latest_start(self, now: float, works: Sequence[Ticket]) -> float:
        """When those works must start, as one, for all to end in time; now where none can tell."""
        if any(self.estimates.of(work.kind, now) is None for work in works):
            return now
        guesses = [self.estimates.guess(work.kind) for work in works]
        need = sum(guess.mean + _MARGIN * guess.spread for guess in guesses)
        return min(work.expires_at for work in works) - self.slots * need - _WAY_BACK

    def start(self, now: float, works: Sequence[Ticket]) -> Slot:
        """Takes those works from the queue into one slot."""
        for work in works:
            self.waiting.remove(work)
        run = Slot(works, self._meter.change(now, len(self.running) + 1))
        self.running.append(run)
        return run

    def end(self, now: float, run: Slot) -> float:
        """Gives the slot free; the demand of each of its works, in seconds."""
        self.running.remove(run)
        return (self._meter.change(now, len(self.running)) - run.shown) / len(run.works)

    def _overrun(self, now: float, work: Ticket) -> float:
        """Seconds by which the work, or one that it makes late, would miss its deadline.

        Of work that has not been measured yet only the start must be in time.
        """
        place = bisect_right(self.waiting, _due(work), key=_due)
        order = [*self.waiting[:place], work, *self.waiting[place:]]
        mean = self.estimates.guess(work.kind).mean
        is_known = self.estimates.of(work.kind, now) is not None
        spared = 0.0 if is_known else self.slots * mean + _WAY_BACK
        worst = -math.inf
        for index, end in enumerate(self._ends(now, order)):
            over = now + end - order[index].expires_at
            if index == place:
                worst = over - spared
            elif index > place and 0 < over <= mean:  # not late without this work
                worst = max(worst, over)
        return worst

    def _ends(self, now: float, order: Sequence[Ticket]) -> Iterator[float]:
        """When each of them ends, in seconds from now, with a margin.

        Each takes the first slot that gets free; all slots that are taken share the time.
        """
        free, variance = self._slots(now)
        at_once = min(self.slots, len(self.running) + len(order))
        for first in range(0, len(order), self.max_batch):
            together = order[first : first + self.max_batch]
            estimates = [self.estimates.guess(work.kind) for work in together]
            demand = free[0] + sum(estimate.mean for estimate in estimates)
            heapreplace(free, demand)
            own = sum(estimate.spread for estimate in estimates)
            wait, work = _MARGIN * math.sqrt(variance), _LAST_MARGIN * at_once * own
            margin = math.hypot(wait, work) + _DRIFT * at_once * demand + _WAY_BACK
            variance += own * own
            for _ in together:
                yield at_once * demand + margin

    def _slots(self, now: float) -> tuple[list[float], float]:
        """The demand that is left in each slot, as a heap, and the variance of their sum."""
        shown = self._meter.show(now)
        left, variance = [0.0] * (self.slots - len(self.running)), 0.0
        for run in self.running:
            estimates = [self.estimates.guess(work.kind) for work in run.works]
            mean = sum(estimate.mean for estimate in estimates)
            done = shown - run.shown
            # What has taken longer than the mean is taken to need as long again.
            left.append(mean - done if done < mean else min(done - mean, mean))
            variance += sum(estimate.spread**2 for estimate in estimates)
        heapify(left)
        return left, variance

    def _next_end(self, now: float) -> float:
        """Seconds until a slot is free."""
        if not any(self.estimates.guess(work.kind).samples for work in self._started()):
            return _UNKNOWN_WAIT
        return max(self._slots(now)[0][0] * len(self.running), _SHORTEST_WAIT)

    def _started(self) -> Iterator[Ticket]:
        for run in self.running:
            yield from run.works


def _due(work: Ticket) -> float:
    return work.expires_at
