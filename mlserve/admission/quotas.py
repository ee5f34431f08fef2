"""How much of the server's time tokens have used while others waited, against their shares.

A start that others wait for is paid for at the rate of the token's share: with a share of 0.3, a
call of 0.03 s keeps its token from the next such start for 0.1 s. So a token has its share and no
more, however short its deadlines are. While nobody else waits, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from mlserve.admission.tickets import Ticket


@dataclass(slots=True)
class Quotas:
    """What the tokens with a share, above 0 and at most 1, have used of it."""

    shares: Mapping[str, float]
    _paid_at: dict[str, float] = field(default_factory=dict)
    """When each token will have paid for its starts so far."""

    def note(self, now: float, ticket: Ticket, demand: float) -> None:
        """Count a start that others wait for, of a call that takes so many seconds."""
        token = ticket.caller.token
        if (share := self.shares.get(token)) is not None:
            price = demand / share
            # A slot is seldom free just when a token may start: so it is not late for the next one.
            self._paid_at[token] = max(now - price, self._paid_at.get(token, now)) + price

    def used_up(self, now: float) -> Set[str]:
        """Return the tokens that have had their share: others go first."""
        return {token for token, paid_at in self._paid_at.items() if paid_at > now}

    def owed(self, now: float, token: str) -> float:
        """Return in how many seconds the token may start a call again that others wait for."""
        return max(0.0, self._paid_at.get(token, now) - now)
