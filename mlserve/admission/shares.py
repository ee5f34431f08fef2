"""Whose calls go first under overload: classes, and shares of the server's time.

Of several models, each is sure of an equal part of the server's time, as far as it asks for it.
What one leaves, the others have. A token may have at most the share that it was given, while others
ask for anything.

To a model's time belongs what its calls cost beside their runs: to be received, refused, answered.
That is a part of the server's time, the `overhead`, in which all runs are slower. It is most of all
for a fast model, whose calls are many, and would be paid by the slow ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from typing import Generic

from mlserve.admission.forecast import WAY_BACK, Forecast
from mlserve.admission.queue import Queue, due_at
from mlserve.admission.quotas import Quotas
from mlserve.admission.rates import Rates
from mlserve.admission.tickets import Queued, Ticket

_MEMORY = 2.0
"""Seconds over which it is measured what the models ask for and get."""
_AT_WORK = 0.01
"""The least part of the server's time that a model asks for to count as one of several."""
_MOST_OVERHEAD = 0.5
"""The most of the server's time, and of a model's part, that calls cost beside their runs."""

_LEEWAY = 1.08
"""How much longer a token's calls may wait than at the rate of its share: starts are not even."""


@dataclass(slots=True)
class Shares(Generic[Queued]):
    """What each model asks for and gets, in seconds of the whole server a second."""

    forecast: Forecast[Queued]
    queue: Queue[Queued]
    quotas: Quotas
    overhead: float = 0.0
    """The part of the server's time that goes into other things than runs, 0 to 1."""
    _calls: Rates[str] = field(default_factory=lambda: Rates(_MEMORY))
    """The calls of each model, also those that were refused."""
    _offered: Rates[str] = field(default_factory=lambda: Rates(_MEMORY))
    _had: Rates[str] = field(default_factory=lambda: Rates(_MEMORY))
    _asked: Rates[str] = field(default_factory=lambda: Rates(_MEMORY))
    """The calls of each token, where any has a share."""

    def note_arrival(self, now: float, ticket: Ticket) -> None:
        """Count a call that has arrived."""
        if self.quotas.shares:
            self._asked.add(ticket.caller.token, 1.0, now)
        self._calls.add(ticket.kind.model, 1.0, now)
        self._offered.add(ticket.kind.model, self.forecast.estimates.guess(ticket.kind).mean, now)

    def _others_ask(self, now: float, token: str) -> bool:
        """Return whether callers with another token, or none, have asked for anything lately."""
        return any(name != token for name, _ in self._asked.items(now))

    def note_start(self, now: float, tickets: Sequence[Ticket]) -> None:
        """Count calls that start together."""
        for ticket in tickets:
            demand = self.forecast.estimates.guess_in_batch(ticket.kind, len(tickets)).mean
            self._had.add(ticket.kind.model, demand, now)

    def overrun(self, now: float, ticket: Ticket) -> tuple[float, float]:
        """Return how late the call would be if its model or token had but its share, and that.

        In seconds; 0 or less if it would be in time.
        """
        model, token = ticket.kind.model, ticket.caller.token
        over, share = 0.0, 1.0
        of_model = self._of(now, model)
        if of_model < 1.0:
            over, share = self._late(now, ticket, self._ahead(ticket), of_model), of_model
        of_token = self.quotas.shares.get(token)
        if of_token is not None and over <= 0 and self._others_ask(now, token):
            own = ((kind, n) for (name, kind), n in self.queue.tokens.items() if name == token)
            late = self._late(now, ticket, self.forecast.demand(own) * _LEEWAY, of_token)
            over, share = late + self.quotas.owed(now, token), of_token
        return over, share

    def _ahead(self, ticket: Ticket) -> float:
        """Return the seconds that those calls of its model take which are due before it.

        Of a long queue, no more than half is looked at; most calls come last.
        """
        queue, guess = self.queue, self.forecast.estimates.guess
        means = {kind: guess(kind).mean for kind in queue.kinds if kind.model == ticket.kind.model}

        def taken_by(calls: Iterable[Ticket]) -> float:
            return sum(means.get(call.kind, 0.0) for call in calls)

        place = queue.place_of(ticket)
        if 2 * place < len(queue.line):
            return taken_by(queue.line[:place])
        every = sum(count * means.get(kind, 0.0) for kind, count in queue.kinds.items())
        return max(0.0, every - taken_by(chain(queue.line[place:], queue.overdue)))

    def victims(self, now: float, ticket: Ticket) -> Iterator[Queued]:
        """Yield the waiting calls that may give way to this one: the first ones first.

        They are the less important, and of those as important, the ones of models that have had
        more than their share where its own has had less. Of equals, the last due goes first.
        Whoever takes some out of the queue puts them back before asking for more.
        """
        greedy = self._greedy(now, ticket.kind.model)
        for priority, count in sorted(self.queue.priorities.items()):
            is_less = priority < ticket.priority
            if not count or not (is_less or (greedy and priority == ticket.priority)):
                continue
            overdue = sorted(self.queue.overdue, key=due_at, reverse=True)
            for other in merge(reversed(self.queue.line), overdue, key=due_at, reverse=True):
                if other.priority == priority and (is_less or other.kind.model in greedy):
                    yield other

    def _late(self, now: float, ticket: Ticket, ahead: float, share: float) -> float:
        own = self.forecast.estimates.guess(ticket.kind)
        needed = (ahead + own.mean) / share + self.forecast.slots * own.mean + WAY_BACK
        return now + needed - ticket.due_at

    def _of(self, now: float, model: str) -> float:
        """Return a model's share of the time of all runs: what the others leave of the server's.

        Each of those is sure of its part.
        """
        asked = {name: rate for name, rate in self._offered.items(now) if rate >= _AT_WORK}
        others = [name for name in asked if name != model]
        if not others:
            return 1.0
        part = 1 / (len(others) + 1)
        beside = self._beside(now, part)
        runs = 1.0 - sum(beside.values())
        left = 1.0 - sum(min(part, asked[name] * runs + beside.get(name, 0.0)) for name in others)
        return min(1.0, (left - beside.get(model, 0.0)) / runs)

    def _greedy(self, now: float, model: str) -> set[str]:
        """Return the models that have had more than an equal part, if this one has had less."""
        had = dict(self._had.items(now))
        others = sum(rate >= _AT_WORK for name, rate in had.items() if name != model)
        if not others:
            return set()
        part = 1 / (others + 1)
        beside = self._beside(now, part)
        runs = 1.0 - sum(beside.values())
        had = {name: had.get(name, 0.0) * runs + beside.get(name, 0.0) for name in {model, *had}}
        if had[model] >= part:
            return set()
        return {name for name, rate in had.items() if rate > part}

    def _beside(self, now: float, part: float) -> dict[str, float]:
        """Return the part of the server's time that the calls of each model cost beside runs."""
        calls = dict(self._calls.items(now))
        total, overhead = sum(calls.values()), min(self.overhead, _MOST_OVERHEAD)
        return {
            name: min(part * _MOST_OVERHEAD, overhead * count / total)
            for name, count in calls.items()
        }
