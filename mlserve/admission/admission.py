"""Admission control and scheduling, by deadlines and estimates.

The queue is ordered by deadline. A call is admitted if, by the estimates, it ends in time behind
everything that runs or is due before it, and makes no call late that is due after it. So short
deadlines overtake long ones as far as those can spare the time.

All models share the slots and the queue. A model may have a `width`, the most calls of it that run
at once, so that the others have the remaining slots. Half of the queue's places are divided among
the models, and each keeps its own, however many calls of the others wait.

    check -> enter -> judge -> start -> end          leave: a client that has gone

Overloaded means that a later try may succeed. Where none can, because the model needs longer than
the client waits or the time is up, the error is DeadlineExceeded, which clients do not retry.
`retry_after` computes when to try again.

Nothing here reads a clock or uses asyncio: the caller passes the time, in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import chain
from typing import Generic, TypeVar

from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.admission.estimates import CostKey, Estimate, Estimates, Meter
from mlserve.admission.retry_after import until_a_slot_is_free, until_in_time
from mlserve.admission.verdicts import Refusal
from mlserve.deadline import Deadline, in_words
from mlserve.errors import DeadlineExceeded, MlserveError, Overloaded

_MARGIN = 3.0
"""Mean deviations that a call must have to spare to be admitted: about 99 of 100 end in time."""
_LAST_MARGIN = 2.0
"""The same for a call about to start, which has less ahead of it that can go wrong."""
_DRIFT = 0.08
"""The fraction by which all calls together may exceed their estimates as a machine gets busier."""
_WAY_BACK = 0.005
"""Seconds for the answer to travel back to the client."""
_MOST_WAITING = 1000
"""Calls that may wait, however fast they are, where their number is not set."""
IN_QUEUE = "waiting in the server's queue"
_MORE_TIME = "give the call more time with --timeout, or serve the model on a faster machine"
_OR_ANOTHER_SERVER = "give the call more time with --timeout, or start another server"


@dataclass(eq=False, slots=True)
class Ticket:
    """A call as admission sees it: its kind, when its answer is due, and its model's width.

    `width` None is all slots. `caller` and `priority` are the request's. `is_asked` says that the
    caller set the deadline; otherwise `expires_at` is the server's default. `held` is how many
    bytes the call holds while it waits. A call `on_ladder` may need more than one run. To others it
    is the load of such calls on average; but there must be time for it to climb. If there is not,
    one that `may_stay` is admitted for the first rung only.
    """

    kind: CostKey
    expires_at: float
    width: int | None = None
    on_ladder: bool = False
    may_stay: bool = False
    may_climb: bool = True
    caller: Caller = UNKNOWN_CALLER
    priority: Priority = Priority.DEFAULT
    is_asked: bool = True
    arrived_at: float = 0.0
    held: int = 0
    is_waiting: bool = False
    """Whether it is in the queue, which is not searched for it."""

    def stay(self) -> None:
        """Leave the call on the first rung of its ladder."""
        self.kind, self.may_climb = self.least_kind, False

    @property
    def least_kind(self) -> CostKey:
        """The kind of the calls that take no longer than this one will at least."""
        return self.kind.climbing(False) if self.on_ladder else self.kind


Queued = TypeVar("Queued", bound=Ticket)


@dataclass(eq=False, slots=True)
class Slot(Generic[Queued]):
    """Calls that were started together, and what the meter showed then.

    `threads` is how many of the server's threads their run may use; `was_alone`, whether nothing
    else has run so far.
    """

    tickets: Sequence[Queued]
    shown: float
    threads: int
    was_alone: bool
    has_ended: bool = False

    @property
    def model(self) -> str:
        """The model of the calls: calls of one model run together."""
        return self.tickets[0].kind.model


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a call is not admitted or not started.

    `seconds` is when to retry for QUEUE_FULL and DEADLINE, and how long such a call takes for
    TOO_SLOW and DISPLACED.
    """

    why: Refusal
    seconds: float


@dataclass(slots=True)
class Admission(Generic[Queued]):
    """The queue and slots of a server: at most `slots` run at once and `max_waiting` wait.

    More may wait if calls are so fast that `patience` seconds are enough for them. Up to
    `max_batch` waiting calls may run as one, in one slot. `models` is how many are served.
    """

    slots: int
    max_waiting: int
    patience: float = 0.0
    max_batch: int = 1
    models: int = 1
    estimates: Estimates = field(default_factory=Estimates)
    waiting: list[Queued] = field(default_factory=list)
    running: list[Slot[Queued]] = field(default_factory=list)
    _meter: Meter = field(default_factory=Meter)
    _kinds: Counter[CostKey] = field(default_factory=Counter)
    """How many calls of each kind wait."""

    @property
    def started(self) -> int:
        """The number of calls that hold a slot."""
        return sum(len(slot.tickets) for slot in self.running)

    @property
    def places(self) -> int:
        """How many calls may wait now."""
        mean = self.estimates.usual_demand
        if not self.patience or not mean:
            return self.max_waiting
        return max(self.max_waiting, min(_MOST_WAITING, int(self.patience / mean)))

    def check(self, now: float, ticket: Queued) -> Verdict | None:
        """Return why the call cannot be admitted; None if it can."""
        kind = ticket.kind
        verdict = self.check_room(now, kind.model) or self.check_kind(
            now, ticket.least_kind, ticket.expires_at
        )
        if verdict is not None or not (self.running or self.waiting):
            return verdict
        if self._is_roomy(now, ticket):
            return None
        over = self._overrun(now, ticket)
        if over > 0 and ticket.may_stay and self.estimates.of(ticket.least_kind, now) is not None:
            ticket.stay()
            over = self._overrun(now, ticket)
        return None if over <= 0 else Verdict(Refusal.DEADLINE, until_in_time(over))

    def check_room(self, now: float, model: str | None = None) -> Verdict | None:
        """Return why no call of that model can be admitted, or none at all; None if one can."""
        if len(self.running) < self.slots or len(self.waiting) < self._places(model):
            return None
        demand = self._slots(now)[0][0] if self._is_measured() else None
        return Verdict(Refusal.QUEUE_FULL, until_a_slot_is_free(demand, len(self.running)))

    def check_kind(self, now: float, kind: CostKey, expires_at: float) -> Verdict | None:
        """Return why a call of that kind would be late even if it ran alone; None if in time."""
        estimate = self.estimates.of(kind, now, alone=True)
        if estimate is None or not estimate.is_sure or estimate.least <= expires_at - now:
            return None
        # An unread request may turn out to be fast, however slow others of its length were.
        return Verdict(Refusal.TOO_SLOW, estimate.mean) if kind.is_read else None

    def _places(self, model: str | None) -> int:
        """Return how many calls may wait before the next one of that model."""
        places = self.places
        own = places // (2 * self.models) if self.models > 1 and model else 0
        if not own:
            return places
        waiting: Counter[str] = Counter()
        for kind, count in self._kinds.items():
            waiting[kind.model] += count
        if waiting[model or ""] < own:
            return places
        taken = sum(min(own, count) for name, count in waiting.items() if name != model)
        return places - max(0, (self.models - 1) * own - taken)

    def enter(self, ticket: Queued) -> None:
        """Put the call into the queue."""
        insort(self.waiting, ticket, key=_due)
        self._kinds[ticket.kind] += 1
        ticket.is_waiting = True

    def leave(self, ticket: Queued) -> bool:
        """Remove the call from the queue; return False if it was not there."""
        if not ticket.is_waiting:
            return False
        self._remove(ticket)
        return True

    def _remove(self, ticket: Queued) -> None:
        ticket.is_waiting = False
        self.waiting.remove(ticket)
        self._kinds[ticket.kind] -= 1
        if not self._kinds[ticket.kind]:
            del self._kinds[ticket.kind]

    def has_slot(self) -> bool:
        """Return whether a slot is free."""
        return len(self.running) < self.slots

    def is_full(self, ticket: Queued) -> bool:
        """Return whether as many calls of its model run as its width allows."""
        running = sum(slot.model == ticket.kind.model for slot in self.running)
        return ticket.width is not None and running >= ticket.width

    def judge(self, now: float, ticket: Queued) -> Verdict | None:
        """Return why the call at the head of the queue must not start; None if it may."""
        left = ticket.expires_at - now
        if left <= 0:
            return Verdict(Refusal.EXPIRED, 0.0)
        others = len(self.running) + len(self.waiting) - 1
        estimate = self.estimates.of(ticket.least_kind, now, alone=not others)
        if estimate is None or not estimate.is_sure:
            return None
        at_once = min(self.slots, self._most_at_once(self.waiting))
        needed = estimate.least
        if others:
            needed = at_once * (estimate.mean + _LAST_MARGIN * estimate.spread) + _WAY_BACK
        return None if needed <= left else Verdict(Refusal.DISPLACED, at_once * estimate.mean)

    def latest_start(self, now: float, tickets: Sequence[Queued]) -> float:
        """Return when these calls, run as one, must start to end in time; now if unknown."""
        if any(self.estimates.of(ticket.kind, now) is None for ticket in tickets):
            return now
        guesses = self._guesses(tickets)
        need = sum(guess.mean + _MARGIN * guess.spread for guess in guesses)
        return min(ticket.expires_at for ticket in tickets) - self.slots * need - _WAY_BACK

    def start(self, now: float, tickets: Sequence[Queued]) -> Slot[Queued]:
        """Move these calls from the queue into one slot.

        They may use their share of the threads, which is all where nothing else runs or waits. What
        runs already keeps what it has, until it ends.
        """
        for ticket in tickets:
            self._remove(ticket)
        shown = self._meter.change(now, len(self.running) + 1)
        for other in self.running:
            other.was_alone = False
        slot = Slot(tickets, shown, self.slots, was_alone=not self.running)
        self.running.append(slot)
        slot.threads = self.slots // self._at_once(self.waiting)
        return slot

    def end(self, now: float, slot: Slot[Queued]) -> float:
        """Free the slot; return the demand of each of its calls, in seconds."""
        self.running.remove(slot)
        slot.has_ended = True
        return (self._meter.change(now, len(self.running)) - slot.shown) / len(slot.tickets)

    def error(self, verdict: Verdict, deadline: Deadline) -> MlserveError:
        """Return the error for that verdict, with what runs and waits now."""
        seconds, timeout = in_words(verdict.seconds), in_words(deadline.timeout)
        busy = f"{self.started} requests are running and {len(self.waiting)} waiting"
        match verdict.why:
            case Refusal.QUEUE_FULL:
                return Overloaded(
                    f"{busy}: the queue is full",
                    hint="send fewer requests at once, or start another server",
                    retry_after=verdict.seconds,
                )
            case Refusal.DEADLINE:
                return Overloaded(
                    f"{busy}: the answer would come about {seconds} after the deadline of "
                    f"{timeout}, or make another one late",
                    hint=_OR_ANOTHER_SERVER,
                    retry_after=verdict.seconds,
                )
            case Refusal.TOO_SLOW:
                return DeadlineExceeded(
                    f"no answer within {timeout}: the model needs about {seconds}, even when "
                    "nothing else runs",
                    hint=_MORE_TIME,
                )
            case Refusal.DISPLACED:
                return DeadlineExceeded(
                    f"no answer within {timeout}: it was {IN_QUEUE} until too little time was "
                    f"left for the model, which now needs about {seconds}",
                    hint=_OR_ANOTHER_SERVER,
                )
        return deadline.exceeded(IN_QUEUE)

    def _is_roomy(self, now: float, ticket: Queued) -> bool:
        """Return whether all calls, with this one, surely end in time, by a rough upper bound.

        It is as if each had to wait for all others, and the deadline of all were the earliest. Of
        a queue of short calls that is true far more often than not, and costs a tenth of the exact
        answer (`_overrun`).
        """
        if self.max_batch > 1:
            return False
        running = [t.kind for slot in self.running for t in slot.tickets]
        demand = variance = widest = 0.0
        for kind, count in (*self._kinds.items(), *((kind, 1) for kind in (*running, ticket.kind))):
            guess = self.estimates.guess_in_batch(kind, 1)
            demand += count * guess.mean
            variance += count * guess.spread * guess.spread
            widest = max(widest, guess.spread)
        margin = math.hypot(_MARGIN * math.sqrt(variance), _LAST_MARGIN * self.slots * widest)
        earliest = min(ticket.expires_at, self.waiting[0].expires_at if self.waiting else math.inf)
        demand += self._climb(now, ticket)
        needed = self.slots * demand * (1 + _DRIFT) + margin + _WAY_BACK
        return now + needed <= earliest

    def _overrun(self, now: float, ticket: Queued) -> float:
        """Return by how many seconds the call, or one it delays, would miss its deadline.

        A call of a kind not measured yet only has to start in time.
        """
        place = bisect_right(self.waiting, _due(ticket), key=_due)
        order = [*self.waiting[:place], ticket, *self.waiting[place:]]
        mean = self.estimates.guess(ticket.kind).mean
        is_known = self.estimates.of(ticket.kind, now) is not None
        spared = 0.0 if is_known else self.slots * mean + _WAY_BACK
        worst = -math.inf
        for index, end in enumerate(self._ends(now, order)):
            over = now + end - order[index].expires_at
            if index == place:
                worst = over - spared + self.slots * self._climb(now, ticket)
            elif index > place and 0 < over <= mean:  # on time without this one
                worst = max(worst, over)
        return worst

    def _climb(self, now: float, ticket: Queued) -> float:
        """Return the seconds of a climb that the call must have beyond those of the usual one.

        0 for a call whose deadline is too short for a climb even on an idle server.
        """
        kind = ticket.kind.climbing(True)
        climbed = self.estimates.of(kind, now) if ticket.on_ladder and ticket.may_climb else None
        if climbed is None:
            return 0.0
        alone = self.estimates.of(kind, now, alone=True) or climbed
        if now + alone.mean + alone.spread + _WAY_BACK > ticket.expires_at:
            return 0.0
        return max(0.0, climbed.mean - self.estimates.guess(ticket.kind).mean)

    def _ends(self, now: float, order: Sequence[Queued]) -> Iterator[float]:
        """Yield when each of them ends, in seconds from now, with a margin.

        Each takes the first slot that becomes free; all occupied slots share the time.
        """
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
            behind, alone = _MARGIN * math.sqrt(variance), _LAST_MARGIN * at_once * own
            margin = math.hypot(behind, alone) + _DRIFT * at_once * demand + _WAY_BACK
            variance += own * own
            for _ in together:
                yield at_once * demand + margin

    def _slots(self, now: float) -> tuple[list[float], float]:
        """Return the remaining demand of each slot, ascending, and the variance of their sum."""
        shown = self._meter.show(now)
        left, variance = [0.0] * (self.slots - len(self.running)), 0.0
        for slot in self.running:
            estimates = self._guesses(slot.tickets)
            left.append(_left(shown - slot.shown, estimates))
            variance += sum(estimate.spread**2 for estimate in estimates)
        return sorted(left), variance

    def _lanes(self, now: float, order: Sequence[Queued]) -> dict[str, list[float]]:
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

    def _at_once(self, waiting: Sequence[Queued]) -> int:
        """Return how many slots what runs and these calls will use at once, in full batches."""
        return min(self.slots, self._most_at_once(waiting[:: self.max_batch]))

    def _most_at_once(self, starts: Sequence[Queued]) -> int:
        """Return how many of what runs and of these could run at once, at most all slots."""
        counts: Counter[str] = Counter()
        most = 0
        for ticket in chain((slot.tickets[0] for slot in self.running), starts):
            model = ticket.kind.model
            if ticket.width is None or counts[model] < ticket.width:
                most += 1
                if most >= self.slots:  # a long queue need not be walked to its end
                    break
            counts[model] += 1
        return most

    def _guesses(self, tickets: Sequence[Queued]) -> list[Estimate]:
        """Return the estimates of calls that run as one."""
        if len(tickets) == 1:
            return [self.estimates.guess_in_batch(tickets[0].kind, 1)]
        count, kinds = len(tickets), {ticket.kind for ticket in tickets}
        found = {kind: self.estimates.guess_in_batch(kind, count) for kind in kinds}
        return [found[ticket.kind] for ticket in tickets]

    def _is_measured(self) -> bool:
        """Return whether there is an estimate for any of the running calls."""
        started = (ticket for slot in self.running for ticket in slot.tickets)
        return any(self.estimates.guess(ticket.kind).samples for ticket in started)


def _left(done: float, estimates: Sequence[Estimate]) -> float:
    """Return the remaining demand of calls that run as one, with so much done."""
    mean = sum(estimate.mean for estimate in estimates)
    # Calls that have taken longer than the mean are expected to need as long again.
    return mean - done if done < mean else min(done - mean, mean)


def _due(ticket: Ticket) -> float:
    return ticket.expires_at
