"""Run arrivals, recorded or made up, through a scheduler on a clock of its own.

    calls = replay(arrivals, Admission(slots=2))
    share = sum(call.is_answered for call in calls) / len(calls)

`replay` drives the real `Admission` in the way that the server's engine does. `simulate` drives any
other `Scheduler`, so that policies can be compared on the same arrivals and the same server.

The server of the simulation is the one that `estimates` describes: each call needs its demand, in
seconds of the whole server, and while k calls run, each gets 1/k of it. A call keeps its slot until
its work has ended, even if its caller has left by then. Deciding and refusing take no time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlserve.admission.admission import Admission
from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.tickets import Slot, Ticket
from mlserve.admission.verdicts import Outcome, Refusal

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call has whose caller sets no deadline, as in a server that is told no other."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call that arrives `at` that moment; `demand` is the server's time that it needs.

    All times are in seconds. `timeout` is the deadline, from `at`, and `is_asked` says that the
    caller set it. `patience` is when the caller hangs up, which the server does not know before.
    `width`, `caller`, `priority` and `held` are what the call's ticket has.
    """

    at: float
    kind: CostKey
    demand: float
    timeout: float = DEFAULT_TIMEOUT
    is_asked: bool = False
    patience: float = math.inf
    caller: Caller = UNKNOWN_CALLER
    priority: Priority = Priority.DEFAULT
    width: int | None = None
    held: int = 0

    @property
    def due(self) -> float:
        """When an answer no longer helps anybody: the deadline, or the caller has left."""
        return self.at + min(self.timeout, self.patience)

    @property
    def leaves_first(self) -> bool:
        """Whether the caller hangs up before its deadline."""
        return self.patience < self.timeout


class Call(Ticket):
    """A call of a simulation: its ticket, and what has become of it.

    `refused` is why it was never started. Otherwise `outcome` is how it ended. `decided_at` is when
    it was refused or ended, `started_at` when it started, or None.
    """

    def __init__(self, arrival: Arrival) -> None:
        super().__init__(
            arrival.kind,
            arrival.at + arrival.timeout,
            arrival.width,
            caller=arrival.caller,
            priority=arrival.priority,
            is_asked=arrival.is_asked,
            arrived_at=arrival.at,
            held=arrival.held,
        )
        self.arrival = arrival
        self.refused: Refusal | None = None
        self.outcome: Outcome | None = None
        self.started_at: float | None = None
        self.decided_at = math.nan

    @property
    def is_answered(self) -> bool:
        """Whether the caller got its answer in time."""
        return self.outcome is Outcome.ANSWERED

    @property
    def is_decided(self) -> bool:
        """Whether it was refused or has ended."""
        return self.refused is not None or self.outcome is not None

    def refuse(self, now: float, why: Refusal) -> None:
        """Note that it will not be started. Schedulers say so of the calls that they drop."""
        self.refused, self.decided_at = why, now

    def end(self, now: float) -> None:
        """Note that its work has ended."""
        arrival, self.decided_at = self.arrival, now
        if now <= arrival.due:
            self.outcome = Outcome.ANSWERED
        else:
            self.outcome = Outcome.GONE if arrival.leaves_first else Outcome.LATE


class Scheduler(Protocol):
    """Decides which calls are let in, and which run next."""

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """Return why the call is refused; None if it was let in."""

    def take(self, now: float) -> Sequence[Call]:
        """Return the calls to start now, together in one free slot; none if none may start.

        Those that it drops from the queue instead, it tells so (`Call.refuse`).
        """

    def end(self, now: float, calls: Sequence[Call]) -> None:
        """Take note that these calls, started together, have ended. `Call.outcome` is set."""

    def leave(self, now: float, call: Call) -> None:
        """Remove a call from the queue: its deadline has passed, or its caller has left."""

    def leave_running(self, now: float, call: Call) -> None:
        """Take note that the caller has left, or the deadline passed, while the call runs."""


def replay(arrivals: Iterable[Arrival], admission: Admission[Call]) -> list[Call]:
    """Return what becomes of the arrivals, in their order, under that admission.

    `arrivals` are ordered by `at`. The admission learns from them, as in a server.
    """
    return simulate(arrivals, AdmissionScheduler(admission), admission.slots)


def simulate(arrivals: Iterable[Arrival], scheduler: Scheduler, slots: int) -> list[Call]:
    """Return what becomes of the arrivals, in their order, under that scheduler.

    `arrivals` are ordered by `at`. At most `slots` of them run at once.
    """
    server = _Server(scheduler, slots)
    calls = []
    for arrival in arrivals:
        server.run_until(arrival.at)
        call = Call(arrival)
        calls.append(call)
        server.arrive(call)
    server.run_until(math.inf)
    return calls


class _Server:
    """The clock, the slots, and the moments at which callers stop waiting."""

    def __init__(self, scheduler: Scheduler, slots: int) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._now = self._shown = 0.0  # `_shown` is what a `Meter` shows: it slows down as k grows
        self._running: list[tuple[float, int, Sequence[Call]]] = []
        """What runs, by what the meter will show at its end."""
        self._leaving: list[tuple[float, int, Call]] = []
        self._count = 0

    def arrive(self, call: Call) -> None:
        """Let the scheduler decide on the call, at the moment of its arrival."""
        why = self._scheduler.arrive(self._now, call)
        if why is not None:
            call.refuse(self._now, why)
            return
        self._count += 1
        heapq.heappush(self._leaving, (call.arrival.due, self._count, call))
        self._start()

    def run_until(self, moment: float) -> None:
        """Let pass what happens until then, and that moment itself."""
        while True:
            running, leaving = self._running, self._leaving
            while leaving and leaving[0][2].is_decided:
                heapq.heappop(leaving)
            end = self._now + (running[0][0] - self._shown) * len(running) if running else math.inf
            left = leaving[0][0] if leaving else math.inf
            if min(end, left) > moment or not (running or leaving):
                break
            if end <= left:
                self._advance(end)
                self._end()
            else:
                self._advance(left)
                self._leave(heapq.heappop(leaving)[2])
            self._start()
        if moment < math.inf:
            self._advance(moment)

    def _advance(self, now: float) -> None:
        if self._running:
            self._shown += (now - self._now) / len(self._running)
        self._now = now

    def _start(self) -> None:
        while len(self._running) < self._slots and (calls := self._scheduler.take(self._now)):
            self._count += 1
            for call in calls:
                call.started_at = self._now
            demand = sum(call.arrival.demand for call in calls)
            heapq.heappush(self._running, (self._shown + demand, self._count, calls))

    def _end(self) -> None:
        self._shown, _, calls = heapq.heappop(self._running)
        for call in calls:
            call.end(self._now)
        self._scheduler.end(self._now, calls)

    def _leave(self, call: Call) -> None:
        if call.started_at is not None:
            self._scheduler.leave_running(self._now, call)
            return
        self._scheduler.leave(self._now, call)
        call.refuse(self._now, Refusal.GONE if call.arrival.leaves_first else Refusal.EXPIRED)


class AdmissionScheduler:
    """`Admission` as a scheduler: what the server's engine does with it, without the server.

    Calls of the same model, version and signature run together if the admission has a `max_batch`;
    none waits for others to come.
    """

    def __init__(self, admission: Admission[Call]) -> None:
        self._admission = admission
        self._slots: dict[Call, Slot[Call]] = {}
        """By the first call of each."""

    def arrive(self, now: float, call: Call) -> Refusal | None:
        """See `Scheduler`."""
        admission = self._admission
        verdict = admission.check(now, call)
        if verdict is None:
            admission.enter(call)
        for other in admission.shed:
            other.refuse(now, Refusal.SHED)
        admission.shed.clear()
        return None if verdict is None else verdict.why

    def take(self, now: float) -> Sequence[Call]:
        """See `Scheduler`."""
        admission = self._admission
        while (call := admission.next(now)) is not None:
            verdict = admission.judge(now, call)
            if verdict is None:
                calls = self._alike(call)
                self._slots[calls[0]] = admission.start(now, calls)
                return calls
            admission.leave(call)
            call.refuse(now, verdict.why)
        return ()

    def end(self, now: float, calls: Sequence[Call]) -> None:
        """See `Scheduler`."""
        admission, slot = self._admission, self._slots.pop(calls[0])
        demand, kinds = admission.end(now, slot), {call.kind for call in calls}
        admission.estimates.learn_run(
            kinds, set(), demand, now, together=len(calls), alone=slot.was_alone
        )
        for call in calls:
            if call.is_answered:
                self._note_patience(now, call, has_left=False)

    def leave(self, now: float, call: Call) -> None:
        """See `Scheduler`."""
        self._admission.leave(call)
        self.leave_running(now, call)

    def leave_running(self, now: float, call: Call) -> None:
        """See `Scheduler`."""
        self._note_patience(now, call, has_left=call.arrival.leaves_first)

    def _note_patience(self, now: float, call: Call, *, has_left: bool) -> None:
        if not call.is_asked:
            patience = self._admission.patience
            note = patience.note_left if has_left else patience.note_stayed
            note(call.caller, now - call.arrived_at, now)

    def _alike(self, first: Call) -> Sequence[Call]:
        most = self._admission.max_batch
        if most == 1:
            return [first]
        alike = [call for call in self._admission.waiting if call.kind[:3] == first.kind[:3]]
        return [first, *(call for call in alike if call is not first)][:most]
