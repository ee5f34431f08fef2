"""The last decisions of a server, to be explained (`mlserve why`) and replayed (`mlserve audit`).

No payload is kept, and no secret: ids, times, kinds of call, estimates and verdicts.

Each call has a place in a ring: a tuple of what was known when it arrived, and numbers in an array,
which are filled in as it goes on. Neither holds anything that the garbage collector walks over. As
objects, the last 20,000 calls would make each full collection longer, and would themselves bring
one about every few tens of thousands of calls.

Keeping a decision is paid by every call, refused ones too. So nothing is worked out here that can
be worked out when the decisions are read.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from mlserve.admission.admission import Admission
from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.recording import Decision, Recording, ServerFacts, pieces_of
from mlserve.admission.tickets import Slot, Ticket
from mlserve.admission.verdicts import Outcome, Refusal, Verdict

SIZE = 20_000
"""Calls that are remembered."""
_MOST_KNOWN = 4000
"""Different kinds and callers that are known before those are dropped that no kept call has."""
_MOST_TRIES = 20
"""Decisions that are told of one id, the last ones: an id that many calls share tells little."""

_STARTED, _ENDED, _DEMAND, _OUT, _LEFT, _TOGETHER, _WHY, _OUTCOME = range(8)
"""The numbers that are filled in later; NaN until then."""
_NOTHING = array("d", [math.nan] * 8)
_WIDTH = len(_NOTHING)


class _Arrival(NamedTuple):
    """What was known when the call arrived, as it lies in the ring: plain values only.

    `why` is the number of the verdict's reason, 0 for a call that was let in.
    """

    request_id: str = ""
    decided_at: float = 0.0
    arrived_at: float = 0.0
    expires_at: float = 0.0
    due_at: float = 0.0
    mean: float | None = None
    spread: float = 0.0
    held: int = 0
    waiting: int = 0
    running: int = 0
    priority: int = 0
    is_asked: bool = False
    why: int = 0
    seconds: float = 0.0
    limit: float = 0.0
    for_another: bool = False


_REFUSALS, _OUTCOMES = tuple(Refusal), tuple(Outcome)
_REASON_NUMBERS = {why: number for number, why in enumerate(_REFUSALS, 1)}
_OUTCOME_NUMBERS = {outcome: number for number, outcome in enumerate(_OUTCOMES, 1)}
_NO_KIND = CostKey("", 0, "", 0)
_LET_IN, _DUE_AT = _Arrival._fields.index("why"), _Arrival._fields.index("due_at")
"""The length of the tuple of a call that was let in, and where its `due_at` is."""

Known = TypeVar("Known", bound=Hashable)


class Decisions:
    """A ring of the last decisions.

    Every method is called with the admission's lock held, but `settled`, which is called on the
    thread that calls `arrived`.

    `request_id` is the id that the client knows. Times are on the monotonic clock, in seconds. A
    ring of `size` 0 keeps nothing.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._arrivals: list[tuple[Any, ...]] = [()] * size
        self._later = array("d", bytes(size * _WIDTH * 8))
        self._kinds = [_NO_KIND] * size
        self._callers = [UNKNOWN_CALLER] * size
        self._known: dict[Any, Any] = {}
        """Each kind and caller by itself, so that equal ones are one object."""
        self._widths: dict[str, int] = {}
        self._count = 0

    def arrived(
        self,
        now: float,
        request_id: str,
        ticket: Ticket,
        admission: Admission[Any],
        verdict: Verdict | None,
        kind: CostKey | None = None,
    ) -> None:
        """Keep the verdict on a call that has just arrived; None if it was let in.

        Call it before the ticket enters the queue. `kind` is what is known of the call, where the
        ticket's kind is only believed.
        """
        if not self._size:
            return
        estimate, known = admission.estimates.guess(ticket.kind), self._known
        kind, caller = kind or ticket.kind, ticket.caller
        place = self._count % self._size
        ticket.decision = self._count
        self._count += 1
        arrival: tuple[Any, ...] = (
            request_id,
            now,
            ticket.arrived_at or now,
            ticket.expires_at,
            ticket.due_at,
            estimate.mean if estimate.samples else None,
            estimate.spread,
            ticket.held,
            len(admission.waiting),
            admission.started if admission.max_batch > 1 else len(admission.running),
            +ticket.priority,  # a plain number
            ticket.is_asked,
        )
        if verdict is not None:
            reason = (
                _REASON_NUMBERS[verdict.why],
                verdict.seconds,
                verdict.limit,
                verdict.for_another,
            )
            arrival = (*arrival, *reason)
        self._arrivals[place] = arrival
        self._later[place * _WIDTH : (place + 1) * _WIDTH] = _NOTHING
        self._kinds[place] = known.get(kind) or self._know_kind(kind, ticket.width)
        self._callers[place] = known.get(caller) or self._know(caller)

    def started(self, now: float, slot: Slot[Any]) -> None:
        """Keep that the slot's calls have been started."""
        together = len(slot.tickets)
        for ticket in slot.tickets:
            self._set(ticket, _STARTED, now)
            self._set(ticket, _TOGETHER, together)

    def ended(self, now: float, slot: Slot[Any], demand: float) -> None:
        """Keep that the slot's calls have ended, and what each took of the server, in seconds."""
        for ticket in slot.tickets:
            self._set(ticket, _ENDED, now)
            self._set(ticket, _DEMAND, demand)

    def settled(self, ticket: Ticket, outcome: Outcome) -> None:
        """Keep what became of a call that was started."""
        self._set(ticket, _OUTCOME, _OUTCOME_NUMBERS[outcome])

    def left(self, now: float, ticket: Ticket) -> None:
        """Keep that the caller has gone while its call ran."""
        self._set(ticket, _LEFT, now)

    def taken_out(self, now: float, ticket: Ticket, why: Refusal) -> None:
        """Keep that a call that waited was taken out of the queue."""
        self._set(ticket, _OUT, now)
        self._set(ticket, _WHY, _REASON_NUMBERS[why])

    def _set(self, ticket: Ticket, column: int, value: float) -> None:
        """Fill in a column of the call's row, unless another call has it by now."""
        number = ticket.decision
        if number >= 0 and number >= self._count - self._size:
            self._later[number % self._size * _WIDTH + column] = value

    def copy(self, now: float, wall: float, admission: Admission[Any]) -> Copy:
        """Return a copy of what is kept. It takes less than a millisecond.

        `wall` is the time of day at `now`, in seconds since 1970.
        """
        server = ServerFacts(
            admission.slots,
            admission.max_batch,
            None if admission.max_waiting == math.inf else int(admission.max_waiting),
            None if admission.max_held == math.inf else int(admission.max_held),
            dict(admission.token_shares),
            dict(self._widths),
            admission.overhead,
        )
        return Copy(
            now,
            wall,
            server,
            self._count,
            list(self._arrivals),
            self._later[:],
            list(self._kinds),
            list(self._callers),
        )

    def _know_kind(self, kind: CostKey, width: int | None) -> CostKey:
        if width is None:
            self._widths.pop(kind.model, None)
        else:
            self._widths[kind.model] = width
        return self._know(kind)

    def _know(self, new: Known) -> Known:
        """Return the kind or caller, kept from now on; forget those that no kept call has."""
        if len(self._known) >= 2 * self._size + _MOST_KNOWN:
            kept = (*self._kinds, *self._callers)
            self._known = {each: each for each in kept}
        self._known[new] = new
        return new


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the ring, which can be read without the lock."""

    now: float
    wall: float
    server: ServerFacts
    count: int
    arrivals: list[tuple[Any, ...]]
    later: array[float]
    kinds: list[CostKey]
    callers: list[Caller]

    def recording(self, request_id: str = "") -> Recording:
        """Return the decisions on calls with that id, or on all; the oldest first.

        Only for those with one id it is looked up how many calls were `ahead`.
        """
        return replace(self._about(), decisions=tuple(self._decisions(request_id)))

    def pieces(self, request_id: str = "") -> Iterator[str]:
        """Yield the JSON of that recording in pieces, each of which takes a few milliseconds."""
        return pieces_of(self._about(), self._decisions(request_id))

    def _about(self) -> Recording:
        kept = min(self.count, len(self.arrivals))
        return Recording(self.wall, self.server, kept, self.count - kept, ())

    def _decisions(self, request_id: str) -> Iterator[Decision]:
        size = len(self.arrivals)
        places = [number % size for number in range(max(0, self.count - size), self.count)]
        hosts: dict[str, str] = {"": ""}
        if request_id:
            of_id = [place for place in places if self.arrivals[place][0] == request_id]
            for place in of_id[-_MOST_TRIES:]:
                yield self._decision(place, hosts, self._ahead(place, places))
            return
        for place in places:
            yield self._decision(place, hosts, None)

    def _decision(self, place: int, hosts: dict[str, str], ahead: int | None) -> Decision:
        """Return the decision in that place. Addresses are numbered: they are nobody's business.

        What admission needs to know is only which calls came from the same one.
        """
        at = _Arrival(*self.arrivals[place])
        later = [None if math.isnan(value) else value for value in self._later_of(place)]
        out, why, outcome = later[_OUT], later[_WHY], later[_OUTCOME]
        if at.why:
            out, why = at.decided_at, at.why
        caller = self.callers[place]
        host = hosts.setdefault(caller.address, str(len(hosts)))
        return Decision(
            request_id=at.request_id,
            kind=self.kinds[place],
            caller=caller._replace(address=host),
            priority=Priority(at.priority),
            is_asked=at.is_asked,
            is_let_in=not at.why,
            for_another=at.for_another,
            why=None if why is None else _REFUSALS[int(why) - 1],
            outcome=None if outcome is None else _OUTCOMES[int(outcome) - 1],
            decided_at=at.decided_at - self.now,
            arrived_at=at.arrived_at - self.now,
            expires_at=at.expires_at - self.now,
            due_at=at.due_at - self.now,
            mean=at.mean,
            spread=at.spread,
            seconds=at.seconds,
            limit=at.limit,
            started_at=self._ago(later[_STARTED]),
            ended_at=self._ago(later[_ENDED]),
            demand=later[_DEMAND],
            out_at=self._ago(out),
            left_at=self._ago(later[_LEFT]),
            held=at.held,
            ahead=ahead,
            waiting=at.waiting,
            running=at.running,
            together=int(later[_TOGETHER] or 0),
        )

    def _later_of(self, place: int) -> array[float]:
        return self.later[place * _WIDTH : (place + 1) * _WIDTH]

    def _ago(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.now

    def _ahead(self, place: int, places: list[int]) -> int:
        """Return how many of the calls that waited when this one arrived were due before it."""
        this = _Arrival(*self.arrivals[place])
        ahead = 0
        for other in places:
            if other == place:
                break
            that = self.arrivals[other]
            if len(that) > _LET_IN or that[_DUE_AT] > this.due_at:
                continue
            later = self._later_of(other)
            has_gone = (later[_STARTED], later[_OUT])
            ahead += not any(moment <= this.decided_at for moment in has_gone)
        return ahead
