"""The last decisions of a server, to be explained (`mlserve why`) and replayed (`mlserve audit`).

No payload is kept, and no secret: ids, times, kinds of call, estimates and verdicts.

Each call has a row of a ring, written when it arrives and filled in as it goes on. A row is numbers
in an array, and what is no number lies in lists beside it. Kept as objects, the last 20,000 calls
would be walked over by every full garbage collection, and would themselves bring one about every
few tens of thousands of calls.

Writing a row is paid by every call, refused ones too. So nothing is worked out here that can be
worked out when the rows are read (`recording`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable
from dataclasses import dataclass
from struct import Struct
from typing import Any, TypeVar

from mlserve.admission.admission import Admission
from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.recording import Decision, Recording, ServerFacts
from mlserve.admission.tickets import Slot, Ticket
from mlserve.admission.verdicts import Outcome, Refusal, Verdict

SIZE = 20_000
"""Calls that are remembered."""
_MOST_KNOWN = 4000
"""Different kinds and callers that are known before those are dropped that no kept call has."""

_TIMES = ("decided", "arrived", "expires", "due", "mean", "spread", "seconds", "limit")
_LATER = ("started", "ended", "demand", "out", "left")
_COUNTS = ("held", "ahead", "waiting", "running", "together")
_WORDS = ("priority", "is_asked", "is_let_in", "for_another", "why", "outcome")
_COLUMNS = (*_TIMES, *_LATER, *_COUNTS, *_WORDS)
_WIDTH = len(_COLUMNS)
_ROW = Struct(f"{_WIDTH}d")
"""The columns in their order, all as floats. What is not known is NaN, and of words 0."""
_STARTED, _ENDED, _DEMAND, _OUT, _LEFT = map(_COLUMNS.index, _LATER)
_TOGETHER, _WHY, _OUTCOME = map(_COLUMNS.index, ("together", "why", "outcome"))
_LENGTHS = ("mean", "spread", "seconds", "limit", "demand")
"""The times that are no moments."""
_UNKNOWN = math.nan

_REFUSALS, _OUTCOMES = tuple(Refusal), tuple(Outcome)
_NUMBERS = {word: n for words in (_REFUSALS, _OUTCOMES) for n, word in enumerate(words, 1)}
_NO_KIND = CostKey("", 0, "", 0)

Known = TypeVar("Known", bound=Hashable)


class Decisions:
    """A ring of the last decisions. Every method is called with the admission's lock held.

    `request_id` is the id that the client knows. Times are on the monotonic clock, in seconds. A
    ring of `size` 0 keeps nothing.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._values = array("d", bytes(size * _ROW.size))
        self._ids = [""] * size
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
    ) -> None:
        """Keep the verdict on a call that has just arrived; None if it was let in.

        Call it before the ticket enters the queue.
        """
        if not self._size:
            return
        kind, caller, waiting = ticket.kind, ticket.caller, admission.waiting
        estimate = admission.estimates.guess(kind)
        known = self._known
        place = self._count % self._size
        ticket.decision = self._count
        self._count += 1
        self._ids[place] = request_id
        self._kinds[place] = known.get(kind) or self._know_kind(ticket)
        self._callers[place] = known.get(caller) or self._know(caller)
        _ROW.pack_into(
            self._values,
            place * _ROW.size,
            now,
            ticket.arrived_at or now,
            ticket.expires_at,
            ticket.due_at,
            estimate.mean if estimate.samples else _UNKNOWN,
            estimate.spread,
            0.0 if verdict is None else verdict.seconds,
            0.0 if verdict is None else verdict.limit,
            _UNKNOWN,
            _UNKNOWN,
            _UNKNOWN,
            _UNKNOWN if verdict is None else now,
            _UNKNOWN,
            ticket.held,
            waiting.place_of(ticket) if verdict is not None and len(waiting) else 0,
            len(waiting),
            len(admission.running),
            0,
            ticket.priority,
            ticket.is_asked,
            verdict is None,
            verdict is not None and verdict.for_another,
            0 if verdict is None else _NUMBERS[verdict.why],
            0,
        )

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
        self._set(ticket, _OUTCOME, _NUMBERS[outcome])

    def left(self, now: float, ticket: Ticket) -> None:
        """Keep that the caller has gone while its call ran."""
        self._set(ticket, _LEFT, now)

    def taken_out(self, now: float, ticket: Ticket, why: Refusal) -> None:
        """Keep that a call that waited was taken out of the queue."""
        self._set(ticket, _OUT, now)
        self._set(ticket, _WHY, _NUMBERS[why])

    def _set(self, ticket: Ticket, column: int, value: float) -> None:
        """Fill in a column of the call's row, unless another call has it by now."""
        number = ticket.decision
        if number >= 0 and number >= self._count - self._size:
            self._values[number % self._size * _WIDTH + column] = value

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
        )
        return Copy(
            now,
            wall,
            server,
            self._count,
            self._values[:],
            list(self._ids),
            list(self._kinds),
            list(self._callers),
        )

    def _know_kind(self, ticket: Ticket) -> CostKey:
        if ticket.width is not None:
            self._widths[ticket.kind.model] = ticket.width
        return self._know(ticket.kind)

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
    values: array[float]
    ids: list[str]
    kinds: list[CostKey]
    callers: list[Caller]

    def recording(self, request_id: str = "") -> Recording:
        """Return the decisions on calls with that id, or on all; the oldest first."""
        size = len(self.ids)
        forgotten = max(0, self.count - size)
        hosts: dict[str, str] = {"": ""}
        places = (number % size for number in range(forgotten, self.count))
        wanted = (p for p in places if not request_id or self.ids[p] == request_id)
        decisions = tuple(self._decision(place, hosts) for place in wanted)
        kept = self.count - forgotten
        return Recording(self.wall, self.server, kept, forgotten, decisions)

    def _decision(self, place: int, hosts: dict[str, str]) -> Decision:
        """Return the decision in that place; addresses are numbered, as they are nobody's business.

        What admission needs to know is only which calls came from the same one.
        """
        row = self.values[place * _WIDTH : (place + 1) * _WIDTH]
        at = dict(zip(_COLUMNS, row, strict=True))

        def moment(name: str) -> float:
            return at[name] - self.now

        def maybe(name: str) -> float | None:
            value = at[name] if name in _LENGTHS else moment(name)
            return None if math.isnan(value) else value

        caller = self.callers[place]
        host = hosts.setdefault(caller.address, str(len(hosts)))
        return Decision(
            request_id=self.ids[place],
            kind=self.kinds[place],
            caller=caller._replace(address=host),
            priority=Priority(int(at["priority"])),
            is_asked=bool(at["is_asked"]),
            is_let_in=bool(at["is_let_in"]),
            for_another=bool(at["for_another"]),
            why=_REFUSALS[int(at["why"]) - 1] if at["why"] else None,
            outcome=_OUTCOMES[int(at["outcome"]) - 1] if at["outcome"] else None,
            decided_at=moment("decided"),
            arrived_at=moment("arrived"),
            expires_at=moment("expires"),
            due_at=moment("due"),
            mean=maybe("mean"),
            spread=at["spread"],
            seconds=at["seconds"],
            limit=at["limit"],
            started_at=maybe("started"),
            ended_at=maybe("ended"),
            demand=maybe("demand"),
            out_at=maybe("out"),
            left_at=maybe("left"),
            held=int(at["held"]),
            ahead=int(at["ahead"]),
            waiting=int(at["waiting"]),
            running=int(at["running"]),
            together=int(at["together"]),
        )
