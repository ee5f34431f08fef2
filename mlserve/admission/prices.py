"""The price of a call: the part of the calls like it that has been refused lately.

A client that is told the price sends fewer of them (`mlserve.client.throttle`).
"""

from __future__ import annotations

from mlserve.admission.callers import Priority
from mlserve.admission.rates import Rates
from mlserve.admission.tickets import Ticket

_MEMORY = 2.0
"""Seconds over which the part of the calls that is refused is measured."""
_Alike = tuple[str, str, Priority]
"""What calls of one price have in common: model, token and priority."""


class Prices:
    """The calls that came lately and those of them that were refused, by what they are.

    Alike are those of one model, token and priority: others may be refused for what they are.
    """

    def __init__(self) -> None:
        self._arrived: Rates[_Alike] = Rates(_MEMORY)
        self._refused: Rates[_Alike] = Rates(_MEMORY)

    def of(self, ticket: Ticket, now: float) -> float:
        """Return the part of the calls like this one that has been refused lately, 0 to 1."""
        alike = ticket.kind.model, ticket.caller.token, ticket.priority
        arrived = self._arrived.of(alike, now)
        return min(1.0, self._refused.of(alike, now) / arrived) if arrived else 0.0

    def note(self, ticket: Ticket, now: float, *, is_refused: bool) -> None:
        """Count a call that came, and whether it was refused for want of time."""
        alike = ticket.kind.model, ticket.caller.token, ticket.priority
        self._arrived.add(alike, 1.0, now)
        if is_refused:
            self._refused.add(alike, 1.0, now)
