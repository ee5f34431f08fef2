"""Calls as admission sees them: those that wait, and those that hold a slot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mlserve.admission.callers import UNKNOWN_CALLER, Caller, Priority
from mlserve.admission.estimates import CostKey


@dataclass(eq=False, slots=True)
class Ticket:
    """A call: its kind, when its answer is due, and its model's width.

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
    due_at: float = field(init=False)
    """When it should end: `expires_at`, or sooner if such callers hang up before."""
    shows_at: float = math.inf
    """When it shows whether the caller leaves now, as others like it do, or is more patient."""
    demand: float = 0.0
    """What it was expected to take when it entered the queue, in seconds of the whole server."""
    is_waiting: bool = False
    """Whether it is in the queue, which is not searched for it."""
    decision: int = -1
    """Its number in the ring of decisions; negative without one."""

    def __post_init__(self) -> None:
        self.due_at = self.expires_at

    def stay(self) -> None:
        """Leave the call on the first rung of its ladder."""
        self.kind, self.may_climb = self.least_kind, False

    @property
    def least_kind(self) -> CostKey:
        """The kind of the calls that take no longer than this one will at least."""
        return self.kind.climbing(False) if self.on_ladder else self.kind

    @property
    def is_guessed(self) -> bool:
        """Whether it is due when callers like this one hang up, and nobody set that deadline."""
        return self.due_at < self.expires_at

    @property
    def is_undated(self) -> bool:
        """Whether nothing is known of when its caller stops waiting."""
        return not self.is_asked and not self.is_guessed


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
