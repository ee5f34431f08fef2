"""Admission control and scheduling, by deadlines, estimates and patience.

    check_head -> check -> enter -> next -> judge -> start -> end      leave: a client that has gone

The queue is ordered by deadline. A call is admitted if, by the forecast, it ends in time behind
everything that runs or is due before it, and makes no call late that is due after it. So short
deadlines overtake long ones as far as those can spare the time. The number of calls that wait is
not limited, unless that is asked for: time bounds the queue, and memory does.

A caller that sets no deadline gets one all the same, once callers like it have been seen to hang
up (`patience`). It orders the queue. Where some hang up sooner and some later, a call is due at the
first of these moments at which it can be answered; a call that would have to run while its caller
may well leave is put apart until that shows, and is due at the next if the caller is still there.
Such a guess refuses a call only if it would come too late for all but a few, and if no slot has
been free for as long as such callers wait. Where nothing is known, those are served first come,
first served, while that keeps them no longer than such callers are known to wait; then the newest
first.

Under overload the less important call is refused, or gives way if it waits. All models share the
slots. What a model may queue is bounded by its share of the server's time, which is all that the
others leave; and a model that has had less than that displaces calls of one that has had more. A
model may have a `width`, the most calls of it that run at once.

Overloaded means that a later try may succeed. Where none can, because the model needs longer than
the client waits or the time is up, the error is DeadlineExceeded, which clients do not retry.
`retry_after` computes when to try again.

Nothing here reads a clock or uses asyncio: the caller passes the time, in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic

from mlserve.admission.callers import Caller, Priority
from mlserve.admission.estimates import CostKey, Estimate, Estimates
from mlserve.admission.forecast import WAY_BACK, Forecast, Overrun
from mlserve.admission.pace import Pace
from mlserve.admission.patience import PAST, Patience, Wait
from mlserve.admission.prices import Prices
from mlserve.admission.queue import CALL_BYTES, Queue
from mlserve.admission.quotas import Quotas
from mlserve.admission.retry_after import until_a_slot_is_free, until_in_time
from mlserve.admission.shares import Shares
from mlserve.admission.tickets import Queued, Slot, Ticket
from mlserve.admission.verdicts import Refusal, Verdict

_OLDEST_OF = 4
"""Of so many undated calls that start while the newest go first, one is the oldest."""
_LEEWAY = 2.0
"""While no caller has left, they go in turn until one waits so many times longer than any was seen
to: a queue that is not longer may be all that there is, as with clients that ask in turn."""
_ASKED = Wait(0.0, is_known=False)
_STANDING = 1.0
"""Seconds without a free slot after which there is more to do than can be done, and no burst."""


@dataclass(slots=True)
class Admission(Generic[Queued]):
    """The queue and slots of a server, of which at most `slots` are in use at once.

    At most `max_waiting` calls wait, and they hold at most `max_held` bytes. Up to `max_batch`
    waiting calls may run as one, in one slot. `token_shares` is the most of the server's time that
    each of these tokens may use while others need it.
    """

    slots: int
    max_waiting: float = math.inf
    max_held: float = math.inf
    max_batch: int = 1
    token_shares: Mapping[str, float] = field(default_factory=dict)
    estimates: Estimates = field(default_factory=Estimates)
    patience: Patience = field(default_factory=Patience)
    waiting: Queue[Queued] = field(default_factory=Queue)
    shed: list[Queued] = field(default_factory=list)
    """Calls that have given way to others: taken out of the queue, and still to be told."""
    forecast: Forecast[Queued] = field(init=False)
    _shares: Shares[Queued] = field(init=False)
    _quotas: Quotas = field(init=False)
    _pace: Pace = field(init=False)
    _prices: Prices = field(default_factory=Prices)
    _busy_since: float | None = None
    """Since when the slots have been in use without a break in which nothing waited; else None."""
    _turn: int = 0

    def __post_init__(self) -> None:
        self.forecast = Forecast(self.slots, self.max_batch, self.estimates)
        self._quotas = Quotas(self.token_shares)
        self._pace = Pace(self.estimates)
        self._shares = Shares(self.forecast, self.waiting, self._quotas)

    @property
    def overhead(self) -> float:
        """The part of the server's time that goes into other things than runs, 0 to 1."""
        return self._shares.overhead

    @overhead.setter
    def overhead(self, part: float) -> None:
        self._shares.overhead = part

    def widen(self, most: int) -> None:
        """Let up to that many calls run as one from now on, or as many as already may."""
        self.max_batch = self.forecast.max_batch = max(self.max_batch, most)

    @property
    def running(self) -> Sequence[Slot[Queued]]:
        """The slots in use."""
        return self.forecast.running

    @property
    def started(self) -> int:
        """The number of calls that hold a slot."""
        return sum(len(slot.tickets) for slot in self.running)

    def predicted_wait(self, now: float) -> float:
        """Return the seconds that a call which comes now and goes last would wait for a slot."""
        return self.forecast.wait(now, self.waiting)

    def price(self, now: float, ticket: Ticket) -> float:
        """Return the part of the calls like this one that has been refused lately, 0 to 1."""
        return self._prices.of(ticket, now)

    def check(self, now: float, ticket: Ticket) -> Verdict | None:
        """Return why the call cannot be admitted; None if it can.

        Calls that have to give way to it are then in `shed`.
        """
        verdict = self._verdict(now, ticket, may_shed=True)
        self._note(now, ticket, verdict)
        return verdict

    def check_head(self, now: float, ticket: Ticket) -> Verdict | None:
        """Return why a call would surely not be admitted of which only the head is known.

        Its kind is the shortest that was measured, and it may turn out to be a shorter one: where
        there is no time for that kind, it has to be read first. None if it may be admitted.
        """
        if self._too_slow(now, ticket.least_kind, ticket.expires_at) is not None:
            verdict = self.check_room(now, ticket.held, ticket)
        else:
            verdict = self._verdict(now, ticket, may_shed=False)
        if verdict is not None:
            self._note(now, ticket, verdict)
        return verdict

    def check_room(self, now: float, held: int = 0, ticket: Ticket | None = None) -> Verdict | None:
        """Return why no call can be admitted, of so many bytes; None if one can.

        `ticket` is the call, if it is known: its model may have no slot though one is free.
        """
        if self.has_slot() and not (ticket is not None and self.is_full(ticket)):
            return None
        if len(self.waiting) >= self.max_waiting:
            why, limit = Refusal.QUEUE_FULL, self.max_waiting
        elif len(self.waiting) and self.waiting.held + held + CALL_BYTES > self.max_held:
            why, limit = Refusal.MEMORY, self.max_held
        else:
            return None
        seconds = until_a_slot_is_free(self.forecast.until_free(now), len(self.running))
        return Verdict(why, seconds, limit)

    def check_unread(self, now: float, priority: Priority) -> Verdict | None:
        """Return why a call would surely not be admitted of which only the priority is known."""
        verdict = self.check_room(now)
        if verdict is not None and not self.waiting.holds_less_than(priority):
            return verdict
        return None

    def check_kind(self, now: float, kind: CostKey, expires_at: float) -> Verdict | None:
        """Return why a call of that kind would be late even if it ran alone; None if in time."""
        # An unread request may turn out to be fast, however slow others of its length were.
        slow = self._too_slow(now, kind, expires_at) if kind.is_read else None
        return None if slow is None else Verdict(Refusal.TOO_SLOW, slow.mean)

    def enter(self, ticket: Queued) -> None:
        """Put the call into the queue."""
        ticket.demand = self.estimates.guess_in_batch(ticket.kind, self.max_batch).mean
        self.waiting.enter(ticket)

    def leave(self, ticket: Queued) -> bool:
        """Remove the call from the queue; return False if it was not there."""
        if not ticket.is_waiting:
            return False
        self.waiting.remove(ticket)
        self._note_if_idle()
        return True

    def width_of(self, model: str) -> int | None:
        """Return the width of a model that runs; None without one, or if it does not run."""
        running = (slot.tickets[0] for slot in self.running if slot.model == model)
        return next((ticket.width for ticket in running), None)

    def has_slot(self) -> bool:
        """Return whether a slot is free."""
        return len(self.running) < self.slots

    def is_full(self, ticket: Ticket) -> bool:
        """Return whether as many calls of its model run as its width allows."""
        if ticket.width is None:
            return False
        return sum(slot.model == ticket.kind.model for slot in self.running) >= ticket.width

    def next(self, now: float, held: Container[Queued] = ()) -> Queued | None:
        """Return the call to start next, of those that neither `held` nor a width holds back.

        A token that has had its share goes after all others that wait.
        """
        if held:
            self._pace.pause()
        used_up = self._quotas.used_up(now)
        if used_up and any(token not in used_up for token, _ in self.waiting.tokens):
            others = self._next(now, held, used_up)
            if others is not None:
                return others
        return self._next(now, held)

    def _next(
        self, now: float, held: Container[Queued], tokens: Set[str] = frozenset()
    ) -> Queued | None:
        self._bring_back(now)
        while (head := self._first(self.waiting.line, held, tokens)) is not None:
            shows_at = self._may_leave(now, head)
            if shows_at is None:
                return self._undated(now, head, held, tokens) if head.is_undated else head
            self.waiting.note_overdue(head, shows_at)
        return self._first(reversed(self.waiting.overdue), held, tokens)

    def judge(self, now: float, ticket: Ticket) -> Verdict | None:
        """Return why the call that is next must not start; None if it may."""
        left = ticket.expires_at - now
        if left <= 0:
            return Verdict(Refusal.EXPIRED, 0.0)
        needed = self._needed(now, ticket)
        if needed <= left:
            return None
        mean = self.estimates.guess(ticket.least_kind).mean
        return Verdict(Refusal.DISPLACED, self._at_once() * mean)

    def latest_start(self, now: float, tickets: Sequence[Queued]) -> float:
        """Return when these calls, run as one, must start to end in time; now if unknown."""
        return self.forecast.latest_start(now, tickets)

    def start(self, now: float, tickets: Sequence[Queued]) -> Slot[Queued]:
        """Move these calls from the queue into one slot."""
        for ticket in tickets:
            self.waiting.remove(ticket)
        for ticket in tickets if self.token_shares else ():
            if self.waiting.holds_other_than(ticket.caller.token):
                mean = self.estimates.guess_in_batch(ticket.kind, len(tickets)).mean
                self._quotas.note(now, ticket, mean)
        self._shares.note_start(now, tickets)
        self._turn += 1
        slot = self.forecast.start(now, tickets, self.waiting.line)
        if not self.has_slot() and self._busy_since is None:
            self._busy_since = now
        return slot

    def end(self, now: float, slot: Slot[Queued]) -> float:
        """Free the slot; return the demand of each of its calls, in seconds."""
        was_full = not self.has_slot()
        demand = self.forecast.end(now, slot)
        self._pace.end(now, slot.tickets, was_full=was_full, waits=bool(len(self.waiting)))
        self._note_if_idle()
        return demand

    def _note_if_idle(self) -> None:
        if self.has_slot() and not len(self.waiting):
            self._busy_since = None
            if not self.running:
                self._pace.rest()

    def _verdict(self, now: float, ticket: Ticket, *, may_shed: bool) -> Verdict | None:
        self.forecast.stands = self._is_busy_for(now, _STANDING)
        verdict = self.check_room(now, ticket.held, ticket)
        if verdict is None:
            verdict = self.check_kind(now, ticket.least_kind, ticket.expires_at)
            if verdict is not None or not (self.running or len(self.waiting)):
                return verdict
            verdict = self._check_time(now, ticket)
        if verdict is None or self._may_displace(now, ticket, verdict, may_shed=may_shed):
            return None
        return verdict

    def _too_slow(self, now: float, kind: CostKey, expires_at: float) -> Estimate | None:
        """Return the estimate of calls of that kind if they are surely late even when alone."""
        estimate = self.estimates.of(kind, now, alone=True)
        if estimate is None or not estimate.is_sure or estimate.least <= expires_at - now:
            return None
        return estimate

    def _check_time(self, now: float, ticket: Ticket) -> Verdict | None:
        """Return why the call would be late, or make another one late; None if neither."""
        wait = self._guess(now, ticket)
        limit = wait.seconds
        late = self._overrun(now, ticket)
        if late and ticket.is_guessed:
            for limit in self._later(now, ticket.caller, wait):
                ticket.due_at = min(ticket.expires_at, ticket.arrived_at + limit)
                if not (late := self._overrun(now, ticket)):
                    break
            is_sure = wait.longest <= PAST * limit and self._is_busy_for(now, limit)
            if late and not is_sure:
                ticket.due_at = ticket.expires_at
                late = self._overrun(now, ticket)
        if late and ticket.may_stay and self.estimates.of(ticket.least_kind, now) is not None:
            ticket.stay()
            late = self._overrun(now, ticket)
        if late:
            why = Refusal.PATIENCE if ticket.is_guessed else Refusal.DEADLINE
            return Verdict(why, until_in_time(late.seconds), limit, for_another=late.is_others)
        over, share = (0.0, 1.0) if self.has_slot() else self._shares.overrun(now, ticket)
        return Verdict(Refusal.SHARE, until_in_time(over), share) if over > 0 else None

    def _guess(self, now: float, ticket: Ticket) -> Wait:
        """Have the call due when such callers hang up, if that is known; return how they wait."""
        if ticket.is_asked:
            return _ASKED
        alone = self.estimates.of(ticket.least_kind, now, alone=True)
        wait = self.patience.of(ticket.caller, now, 0.0 if alone is None else alone.mean)
        ticket.due_at = ticket.expires_at
        if wait.is_known:
            ticket.due_at = min(ticket.expires_at, ticket.arrived_at + wait.seconds)
        return wait

    def _later(self, now: float, caller: Caller, wait: Wait) -> Iterator[float]:
        """Yield how long those wait who do not leave as soon as most of their kind, ascending."""
        last = wait.seconds
        while PAST * last < wait.longest:
            following = self.patience.of(caller, now, PAST * last)
            if not following.is_known or following.seconds <= last:
                break
            last = following.seconds
            yield last

    def _may_leave(self, now: float, ticket: Ticket) -> float | None:
        """Return when it shows whether the caller hangs up, if that is before the call would end.

        None if such callers wait longer, as far as is known.
        """
        if ticket.is_asked:
            return None
        age = now - ticket.arrived_at
        wait = self.patience.of(ticket.caller, now, age)
        if not (wait.is_known and age <= wait.seconds < age + self._needed(now, ticket)):
            return None
        shows_at = ticket.arrived_at + PAST * wait.seconds
        return shows_at if now < shows_at < ticket.expires_at else None

    def _bring_back(self, now: float) -> None:
        """Put those into line again whose callers have turned out to be more patient."""
        overdue = self.waiting.overdue
        while overdue and overdue[0].shows_at <= now:
            ticket = overdue[0]
            self.waiting.remove(ticket)
            wait = self.patience.of(ticket.caller, now, now - ticket.arrived_at)
            if wait.is_known:
                ticket.due_at = min(ticket.expires_at, ticket.arrived_at + wait.seconds)
            self.waiting.enter(ticket)

    def _is_busy_for(self, now: float, seconds: float) -> bool:
        """Return whether no slot has been free for so long."""
        since = None if self.has_slot() else self._busy_since
        return since is not None and now - since >= seconds

    def _overrun(self, now: float, ticket: Ticket) -> Overrun | None:
        if self.forecast.is_roomy(now, self.waiting, ticket):
            return None
        return self.forecast.overrun(now, self.waiting, ticket)

    def _may_displace(
        self, now: float, ticket: Ticket, verdict: Verdict, *, may_shed: bool
    ) -> bool:
        """Return whether calls that wait give way to this one, so that it can be admitted.

        Unless `may_shed`, they stay, and the answer is whether there are any.
        """
        if verdict.why is Refusal.SHARE or verdict.why is Refusal.TOO_SLOW:
            return False
        if self.forecast.is_hopeless(now, ticket):
            return False
        victims = self._shares.victims(now, ticket)
        if not may_shed:
            return any(True for _ in victims)
        for taken in self._more_and_more(victims, verdict):
            put_back = self.waiting.take_out(taken)
            is_room = self.check_room(now, ticket.held, ticket) is None
            if is_room and self._check_time(now, ticket) is None:
                self.shed += taken
                return True
            put_back()
        return False

    def _more_and_more(
        self, victims: Iterator[Queued], verdict: Verdict
    ) -> Iterator[Sequence[Queued]]:
        """Yield those of them to try without: as many as fill the missing time, then more."""
        is_late = verdict.why in (Refusal.DEADLINE, Refusal.PATIENCE)
        missing = verdict.seconds if is_late else 0.0
        taken: list[Queued] = []
        for victim in victims:
            taken.append(victim)
            missing -= self.estimates.guess(victim.kind).mean
            if missing <= 0:
                break
        more = taken
        while more:
            yield taken
            more = list(islice(victims, len(taken)))
            taken = [*taken, *more]

    def _note(self, now: float, ticket: Ticket, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.why is Refusal.TOO_SLOW:
            return  # it asks for what cannot be: that is no load, and no sign of one
        self._prices.note(ticket, now, is_refused=verdict is not None and verdict.is_for_time)
        self._shares.note_arrival(now, ticket)

    def _first(
        self, line: Iterable[Queued], held: Container[Queued], tokens: Set[str]
    ) -> Queued | None:
        """Return the first call that is not held back, nor its token, and whose model has room."""
        widths = self.waiting.widths
        if not (widths or held or tokens):
            return next(iter(line), None)
        running = Counter(slot.model for slot in self.running)
        full = {(model, width) for model, width in widths if running[model] >= width}
        if full and sum(widths[each] for each in full) == len(self.waiting):
            return None  # however many they are
        for ticket in line:
            is_full = bool(full) and (ticket.kind.model, ticket.width) in full
            if not (is_full or ticket.caller.token in tokens or ticket in held):
                return ticket
        return None

    def _undated(
        self, now: float, oldest: Queued, held: Container[Queued], tokens: Set[str]
    ) -> Queued:
        """Return the undated call to start, of which this one is the oldest that may."""
        wait = self.patience.of(oldest.caller, now)
        stands = wait.seconds if wait.is_known else _LEEWAY * wait.seconds
        if now - oldest.arrived_at <= stands or self._turn % _OLDEST_OF == 0:
            return oldest
        newest = self._first(self.waiting.undated(), held, tokens)
        if newest is None:
            return oldest
        return newest if self.forecast.can_pass(now, self.waiting, oldest) else oldest

    def _needed(self, now: float, ticket: Ticket) -> float:
        """Return the seconds that the call needs if it starts now; 0 if that is not known."""
        others = len(self.running) + len(self.waiting) - 1
        estimate = self.estimates.of(ticket.least_kind, now, alone=not others)
        if estimate is None or not estimate.is_sure:
            return 0.0
        if not others:
            return estimate.least
        return (
            self._at_once() * (estimate.mean + self.forecast.care.last * estimate.spread) + WAY_BACK
        )

    def _at_once(self) -> int:
        return min(self.slots, self.forecast.most_at_once(self.waiting))
