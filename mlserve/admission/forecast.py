"""When the calls that run and wait will end, by the estimates.

Each call takes the first slot that becomes free, in the order of the queue, and all occupied slots
share the time. A margin is added for what the estimates do not know.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import chain, islice
from typing import Generic

from mlserve.admission.estimates import CostKey, Estimate, Estimates, Meter
from mlserve.admission.queue import Queue
from mlserve.admission.tickets import Queued, Slot, Ticket

WAY_BACK = 0.005
"""Seconds for the answer to travel back to the client."""
_MANY = 32
"""Waiting calls from which on the slots count as evenly loaded: half a call more or less is nothing
then, and a walk through all of them would cost more than a refusal may."""
_MANY_BATCHES = 8
"""The same for calls that run in batches: so many full ones, and no fewer calls."""


_LEAST_SCALE = 0.8
"""How much less the calls of a queue may be expected to take in all than when they entered, before
each of them is valued again; and likewise more."""


@dataclass(frozen=True, slots=True)
class _Care:
    """How much a call must have to spare to be admitted, and to be started.

    `margin` and `last` are in mean deviations: of all that run before it, and of the call itself.
    `drift` is the fraction by which all together may exceed their estimates as a machine gets
    busier.
    """

    margin: float
    last: float
    drift: float


_IN_BURSTS = _Care(1.5, 2.0, 0.02)
"""More would leave the server idle at the end of a burst (`benchmarks/policies`), and most of those
that turn out to be late are not started."""
_WHILE_IT_STANDS = _Care(3.0, 3.0, 0.08)
"""A shorter queue then keeps the slots as busy, and hardly any of those let in are late."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """By how many seconds a call would be late, or (`is_others`) make another one late."""

    seconds: float
    is_others: bool = False


@dataclass(slots=True)
class Forecast(Generic[Queued]):
    """The slots of a server, what runs in them, and what all calls are expected to take.

    Up to `max_batch` waiting calls may run as one, in one slot.
    """

    slots: int
    max_batch: int = 1
    estimates: Estimates = field(default_factory=Estimates)
    running: list[Slot[Queued]] = field(default_factory=list)
    stands: bool = False
    """Whether the load has been more than the server can do for a while, and not in a burst."""
    _meter: Meter = field(default_factory=Meter)

    def start(
        self, now: float, tickets: Sequence[Queued], waiting: Sequence[Queued]
    ) -> Slot[Queued]:
        """Put these calls into a slot.

        They may use their share of the threads, which is all where nothing else runs or waits. What
        runs already keeps what it has, until it ends.
        """
        shown = self._meter.change(now, len(self.running) + 1)
        for other in self.running:
            other.was_alone = False
        slot = Slot(tickets, shown, self.slots, was_alone=not self.running)
        self.running.append(slot)
        slot.threads = self.slots // self._at_once(waiting)
        return slot

    def end(self, now: float, slot: Slot[Queued]) -> float:
        """Free the slot; return the demand of each of its calls, in seconds."""
        self.running.remove(slot)
        slot.has_ended = True
        return (self._meter.change(now, len(self.running)) - slot.shown) / len(slot.tickets)

    def is_hopeless(self, now: float, ticket: Ticket) -> bool:
        """Return whether the call would be late even if none of those waited that do."""
        free, _ = self._slots(now)
        mean = self.estimates.guess_in_batch(ticket.kind, 1).mean
        at_once = self._at_once([ticket])
        return now + at_once * (free[0] + mean) + WAY_BACK > ticket.due_at

    def until_free(self, now: float) -> float | None:
        """Return the demand, in seconds, until the next slot is free; None if nothing is known."""
        started = (ticket for slot in self.running for ticket in slot.tickets)
        is_measured = any(self.estimates.guess(ticket.kind).samples for ticket in started)
        return self._slots(now)[0][0] if is_measured else None

    def wait(self, now: float, queue: Queue[Queued]) -> float:
        """Return the seconds that a call which comes now and goes last would wait for a slot.

        0 if one is free. What has not been measured yet counts nothing.
        """
        if not queue.line and len(self.running) < self.slots:
            return 0.0
        ahead = sum(
            count * self.estimates.guess_in_batch(kind, self.max_batch).mean
            for kind, count in queue.kinds.items()
        )
        return self._at_once(queue.line) * self._slots(now)[0][0] + ahead

    def demand(self, counts: Iterable[tuple[CostKey, int]]) -> float:
        """Return the seconds of the whole server that so many calls of these kinds need."""
        guess = self.estimates.guess_in_batch
        return sum(count * guess(kind, 1).mean for kind, count in counts)

    def is_roomy(self, now: float, queue: Queue[Queued], ticket: Ticket) -> bool:
        """Return whether all calls, with this one, surely end in time, by a rough upper bound.

        It is as if each had to wait for all others, and the deadline of all were the earliest. Of
        a queue of short calls that is true far more often than not, and costs a tenth of the exact
        answer (`overrun`).
        """
        if self.max_batch > 1:
            return False
        earliest = min(ticket.due_at, queue.line[0].due_at if queue.line else math.inf)
        return now + self._all_of(now, queue, ticket) <= earliest

    def can_pass(self, now: float, queue: Queue[Queued], oldest: Ticket) -> bool:
        """Return whether the oldest call still ends in time if all that wait go before it."""
        return now + self._all_of(now, queue, oldest) <= oldest.expires_at

    def overrun(self, now: float, queue: Queue[Queued], ticket: Ticket) -> Overrun | None:
        """Return by how much the call, or one that it delays, would be late; None if none would.

        A call of a kind not measured yet only has to start in time.
        """
        place = queue.place_of(ticket)
        is_known = self.estimates.of(ticket.kind, now) is not None
        spared = 0.0 if is_known else self.slots * self._mean_of(ticket) + WAY_BACK
        extra = self.slots * self.climb(now, ticket) - spared
        if len(queue.line) >= max(_MANY, _MANY_BATCHES * self.max_batch):
            at_once = self._slots_of_all(queue, ticket)
            if at_once is not None:
                return self._overrun_of_many(now, queue, ticket, place, extra, at_once)
        worst = 0.0
        for index, end in self._ends(now, queue, ticket, place):
            if index == place:
                own = now + end + extra - ticket.due_at
                if own > 0:
                    return Overrun(own)
                continue
            over = now + end - queue.line[index - 1].due_at
            if 0 < over <= self._mean_of(ticket):  # on time without this one
                worst = max(worst, over)
        return Overrun(worst, is_others=True) if worst else None

    def climb(self, now: float, ticket: Ticket) -> float:
        """Return the seconds of a climb that the call must have beyond those of the usual one.

        0 for a call whose deadline is too short for a climb even on an idle server.
        """
        kind = ticket.kind.climbing(True)
        climbed = self.estimates.of(kind, now) if ticket.on_ladder and ticket.may_climb else None
        if climbed is None:
            return 0.0
        alone = self.estimates.of(kind, now, alone=True) or climbed
        if now + alone.mean + alone.spread + WAY_BACK > ticket.expires_at:
            return 0.0
        return max(0.0, climbed.mean - self.estimates.guess(ticket.kind).mean)

    def latest_start(self, now: float, tickets: Sequence[Queued]) -> float:
        """Return when these calls, run as one, must start to end in time; now if unknown."""
        if any(self.estimates.of(ticket.kind, now) is None for ticket in tickets):
            return now
        guesses = self._guesses(tickets)
        need = sum(guess.mean + self.care.margin * guess.spread for guess in guesses)
        return min(ticket.due_at for ticket in tickets) - self.slots * need - WAY_BACK

    def most_at_once(self, starts: Iterable[Ticket]) -> int:
        """Return how many of what runs and of these could run at once, at most all slots."""
        counts: dict[str, int] = {}
        most = 0
        running: Iterable[Ticket] = (slot.tickets[0] for slot in self.running)
        for ticket in chain(running, starts):
            model = ticket.kind.model
            before = counts.get(model, 0)
            if ticket.width is None or before < ticket.width:
                most += 1
                if most >= self.slots:  # a long queue need not be walked to its end
                    break
            counts[model] = before + 1
        return most

    def _all_of(self, now: float, queue: Queue[Queued], ticket: Ticket) -> float:
        """Return the most seconds until all that runs and waits, and this call, have ended."""
        counts = {**queue.kinds, ticket.kind: queue.kinds.get(ticket.kind, 0) + 1}
        for slot in self.running:
            for other in slot.tickets:
                counts[other.kind] = counts.get(other.kind, 0) + 1
        demand = variance = widest = 0.0
        for kind, count in counts.items():
            guess = self.estimates.guess_in_batch(kind, 1)
            demand += count * guess.mean
            variance += count * guess.spread * guess.spread
            widest = max(widest, guess.spread)
        care = self.care
        margin = math.hypot(care.margin * math.sqrt(variance), care.last * self.slots * widest)
        demand += self.climb(now, ticket)
        return self.slots * demand * (1 + care.drift) + margin + WAY_BACK

    def _ends(
        self, now: float, queue: Queue[Queued], ticket: Ticket, place: int
    ) -> Iterator[tuple[int, float]]:
        """Yield when the call and those behind it end, in seconds from now, with a margin.

        With each comes its index in the line, with the call in its place.
        """
        order: list[Ticket] = [*queue.line[:place], ticket, *queue.line[place:]]
        free, variance = self._slots(now)
        lanes = self._lanes(now, order)
        at_once = self._at_once(order)
        for first in range(0, len(order), self.max_batch):
            together = order[first : first + self.max_batch]
            estimates = self._guesses(together)
            lane = lanes.get(together[0].kind.model)
            start = free[0] if lane is None else max(free[0], lane[0])
            demand = start + sum(estimate.mean for estimate in estimates)
            # Of the slots that are free by then, the last one to be: other models have the rest.
            free.pop(bisect_right(free, start) - 1)
            insort(free, demand)
            if lane is not None:
                heapreplace(lane, demand)
            own = sum(estimate.spread for estimate in estimates)
            end = at_once * demand + self._margin(at_once, demand, variance, own)
            variance += own * own
            for index in range(max(first, place), first + len(together)):
                yield index, end

    def _slots_of_all(self, queue: Queue[Queued], ticket: Ticket) -> int | None:
        """Return how many slots a long queue uses, with the call, whichever calls run at once.

        None if that depends on whose turn it is: if models differ in their width.
        """
        if ticket.width is None and not queue.widths:
            return self.slots
        models = {kind.model for kind in queue.kinds} | {slot.model for slot in self.running}
        if models - {ticket.kind.model}:
            return None
        return self.slots if ticket.width is None else min(self.slots, ticket.width)

    def _overrun_of_many(
        self,
        now: float,
        queue: Queue[Queued],
        ticket: Ticket,
        place: int,
        extra: float,
        at_once: int,
    ) -> Overrun | None:
        """Return the same for a long queue, as if so many slots were evenly loaded.

        Of the calls behind, few are looked at: the line is in the order of the deadlines, so all
        that end by the deadline of one are in time as well. Calls that run in batches end with the
        whole batch.
        """
        line, demands, together = queue.line, queue.demands, self.max_batch
        guesses = {kind: self.estimates.guess_in_batch(kind, together) for kind in queue.kinds}
        own = self.estimates.guess_in_batch(ticket.kind, together)
        widest = max(own.mean, *(guess.mean for guess in guesses.values()))
        spread = max(own.spread, *(guess.spread for guess in guesses.values()))
        one = together * spread * spread  # what one more call adds to the variance
        left, variance = self._slots(now)
        # What calls take may have changed since they entered.
        expected = sum(count * guesses[kind].mean for kind, count in queue.kinds.items())
        if not _LEAST_SCALE * queue.demand <= expected <= queue.demand / _LEAST_SCALE:
            queue.revalue({kind: guess.mean for kind, guess in guesses.items()})
        scale = expected / queue.demand if queue.demand > 0 else 1.0
        ahead = queue.demand - sum(demands[place:]) - sum(call.demand for call in queue.overdue)
        demand = sum(left) + max(0.0, ahead) * scale
        variance += place * one
        end = self._even_end(at_once, demand, together * own.mean, variance, together * own.spread)
        if now + end + extra > ticket.due_at:
            return Overrun(now + end + extra - ticket.due_at)
        demand, variance = demand + own.mean, variance + together * own.spread * own.spread
        step = widest * (1 + self.care.drift) + self.care.margin * math.sqrt(one)
        index = place
        while index < len(line):
            end = self._even_end(
                at_once, demand, together * demands[index] * scale, variance, together * spread
            )
            over = now + end - line[index].due_at
            if 0 < over <= own.mean:  # on time without this one
                return Overrun(over, is_others=True)
            following = index + max(1, int(-over / step) if step else len(line))
            demand += sum(demands[index:following]) * scale
            variance += (following - index) * one
            index = following
        return None

    def _even_end(
        self, at_once: int, demand: float, own: float, variance: float, spread: float
    ) -> float:
        """Return when a call ends behind that demand, in seconds, with a margin."""
        share = demand / at_once + own
        return at_once * share + self._margin(at_once, share, variance, spread)

    def _mean_of(self, ticket: Ticket) -> float:
        return self.estimates.guess(ticket.kind).mean

    def _slots(self, now: float) -> tuple[list[float], float]:
        """Return the remaining demand of each slot, ascending, and the variance of their sum."""
        shown = self._meter.show(now)
        left, variance = [0.0] * (self.slots - len(self.running)), 0.0
        for slot in self.running:
            estimates = self._guesses(slot.tickets)
            left.append(_left(shown - slot.shown, estimates))
            variance += sum(estimate.spread**2 for estimate in estimates)
        return sorted(left), variance

    def _lanes(self, now: float, order: Sequence[Ticket]) -> dict[str, list[float]]:
        """Return, of each model with a width, when its next calls can start, as a heap."""
        lanes: dict[str, list[float]] = {}
        for ticket in order:
            model, width = ticket.kind.model, ticket.width
            if width is not None and model not in lanes:
                shown = self._meter.show(now)
                own = [slot for slot in self.running if slot.model == model]
                left = [_left(shown - s.shown, self._guesses(s.tickets)) for s in own]
                lanes[model] = sorted([*left, *[0.0] * (width - len(own))])
        return lanes

    def _at_once(self, waiting: Sequence[Ticket]) -> int:
        """Return how many slots what runs and these calls will use at once, in full batches."""
        firsts = islice(waiting, 0, None, self.max_batch)
        return min(self.slots, self.most_at_once(firsts))

    @property
    def care(self) -> _Care:
        """How much calls must have to spare now."""
        return _WHILE_IT_STANDS if self.stands else _IN_BURSTS

    def _margin(self, at_once: int, demand: float, variance: float, own: float) -> float:
        """Return the seconds to spare for a call that ends after that demand, with that variance.

        `own` is the mean deviation of the call itself.
        """
        care = self.care
        behind, alone = care.margin * math.sqrt(variance), care.last * at_once * own
        return math.hypot(behind, alone) + care.drift * at_once * demand + WAY_BACK

    def _guesses(self, tickets: Sequence[Ticket]) -> list[Estimate]:
        """Return the estimates of calls that run as one."""
        if len(tickets) == 1:
            return [self.estimates.guess_in_batch(tickets[0].kind, 1)]
        count, kinds = len(tickets), {ticket.kind for ticket in tickets}
        found = {kind: self.estimates.guess_in_batch(kind, count) for kind in kinds}
        return [found[ticket.kind] for ticket in tickets]


def _left(done: float, estimates: Sequence[Estimate]) -> float:
    """Return the remaining demand of calls that run as one, with so much done."""
    mean = sum(estimate.mean for estimate in estimates)
    # Calls that have taken longer than the mean are expected to need as long again.
    return mean - done if done < mean else min(done - mean, mean)
