"""The queue: the calls that wait, the earliest due first, counted by kind and in bytes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, TypeVar

from mlserve.admission.callers import Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.tickets import Queued, Ticket

Key = TypeVar("Key")
CALL_BYTES = 16 * 2**10
"""What a waiting call takes besides its body: its connection, its task and its records."""


class Queue(Generic[Queued]):
    """Calls in the order in which they are due.

    `overdue` are those apart whose callers may hang up any moment, as others like them do, by when
    that shows: those who are still there by then are the more patient, and come back into line.
    """

    def __init__(self) -> None:
        self.line: list[Queued] = []
        self.demands: list[float] = []
        """What each call in the line was expected to take as it entered."""
        self.overdue: list[Queued] = []
        self.kinds: Counter[CostKey] = Counter()
        """How many calls of each kind wait."""
        self.tokens: Counter[tuple[str, CostKey]] = Counter()
        """The same by the name of their token."""
        self.priorities: Counter[Priority] = Counter()
        self.demand = 0.0
        """The sum of what they were expected to take as they entered, in seconds."""
        self.held = 0
        """The bytes that they hold."""
        self.widths: Counter[tuple[str, int]] = Counter()
        """How many of them are of each model with a width, and of which."""

    def __len__(self) -> int:
        return len(self.line) + len(self.overdue)

    def __iter__(self) -> Iterator[Queued]:
        yield from self.line
        yield from self.overdue

    def enter(self, ticket: Queued) -> None:
        """Put a call in its place."""
        place = self.place_of(ticket)
        self.line.insert(place, ticket)
        self.demands.insert(place, ticket.demand)
        self._count(ticket, 1)
        ticket.is_waiting = True

    def remove(self, ticket: Queued) -> None:
        """Take a call out that waits."""
        place = bisect_left(self.line, ticket.due_at, key=due_at)
        while place < len(self.line) and self.line[place].due_at == ticket.due_at:
            if self.line[place] is ticket:
                del self.line[place], self.demands[place]
                break
            place += 1
        else:
            self.overdue.remove(ticket)
        self._count(ticket, -1)
        ticket.is_waiting = False

    def revalue(self, means: Mapping[CostKey, float]) -> None:
        """Expect of each call what calls of its kind take now."""
        for ticket in self:
            ticket.demand = means[ticket.kind]
        self.demands[:] = [ticket.demand for ticket in self.line]
        self.demand = sum(self.demands) + sum(ticket.demand for ticket in self.overdue)

    def take_out(self, tickets: Collection[Queued]) -> Callable[[], None]:
        """Take these calls out, which wait; return what puts everything back as it was."""
        line, demands, overdue = self.line[:], self.demands[:], self.overdue[:]
        for ticket in tickets:
            self.remove(ticket)

        def put_back() -> None:
            self.line[:], self.demands[:], self.overdue[:] = line, demands, overdue
            for ticket in tickets:
                self._count(ticket, 1)
                ticket.is_waiting = True

        return put_back

    def note_overdue(self, ticket: Queued, shows_at: float) -> None:
        """Put a call apart whose caller may hang up any moment, until that moment."""
        self.remove(ticket)
        ticket.due_at, ticket.shows_at = ticket.expires_at, shows_at
        insort(self.overdue, ticket, key=_shows_at)
        self._count(ticket, 1)
        ticket.is_waiting = True

    def place_of(self, ticket: Ticket) -> int:
        """Return where in the line the call would be."""
        return bisect_right(self.line, ticket.due_at, key=due_at)

    def holds_less_than(self, priority: Priority) -> bool:
        """Return whether a less important call waits."""
        return any(self.priorities[lower] for lower in Priority if lower < priority)

    def holds_other_than(self, token: str) -> bool:
        """Return whether a call of another token waits."""
        return any(name != token for name, _ in self.tokens)

    def undated(self) -> Iterator[Queued]:
        """Yield the undated calls, the one that came last first."""
        return (ticket for ticket in reversed(self.line) if ticket.is_undated)

    def _count(self, ticket: Queued, step: int) -> None:
        self.held += step * (ticket.held + CALL_BYTES)
        self.priorities[ticket.priority] += step
        _count(self.kinds, ticket.kind, step)
        self.demand = self.demand + step * ticket.demand if self.kinds else 0.0
        _count(self.tokens, (ticket.caller.token, ticket.kind), step)
        if ticket.width is not None:
            _count(self.widths, (ticket.kind.model, ticket.width), step)


def _count(counts: Counter[Key], key: Key, step: int) -> None:
    counts[key] += step
    if not counts[key]:
        del counts[key]


def due_at(ticket: Ticket) -> float:
    """Return when the call should end."""
    return ticket.due_at


def _shows_at(ticket: Ticket) -> float:
    return ticket.shows_at
