"""How a client spares a server that refuses: most of the calls it would refuse are not sent.

The rule is that of adaptive throttling ("Handling Overload", chapter 21 of Google's book on site
reliability): send at most twice as many calls as the server accepts. The book counts both over the
last minutes, and goes on refusing for minutes after the load has gone. Here the same bound is an
account, the budget, which follows at once:

- it is full until the server refuses a call; as long as more than half of it is left, each call is
  sent: no burst is held back that the server has not begun to refuse;
- a refused call takes one out, an accepted one puts one in;
- below half, each call takes one out when it is sent, and an accepted one puts two in; a call that
  finds none is not sent. So an accepted call makes room for two: once the server has time again,
  the calls double with each answer;
- two a second are put in by time, so that a server which accepts nothing is asked all the same;
- ten seconds without a refusal, and the budget is full.

A refusal may tell the price, the share of such calls that the server refuses now. From half on, the
budget is cut to what that leaves: one refusal then says what would take many to find out. A server
that tells it keeps a queue as long as its callers wait, which a tenth more calls than it accepts
fill as well as twice as many: there, while some are refused, an accepted call makes room for 1.1.

A budget is that of one kind of call: to one endpoint, about one model, with one token, priority and
order of magnitude of the timeout. A server that refuses what is due in 0.1 s may have much time for
what is due in 5 s. Only inference is counted, and not what is asked of metadata or status.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from mlserve.client.budgets import Budget, Budgets, key_of, shared_path
from mlserve.client.endpoint import Connection, Endpoint
from mlserve.client.retries import CallState, NotSent
from mlserve.deadline import in_words
from mlserve.errors import InferenceFailed, Overloaded, UsageError

T = TypeVar("T")
FULL = 64.0
_ALL_ARE_SENT = FULL / 2
"""What must be left of a budget for calls to be sent whatever becomes of those under way."""
_RATIO = 2.0
"""Calls that may be sent for each that is accepted: the book's K."""
_RATIO_WITH_PRICE = 1.1
"""The same while a server refuses that tells its price."""
_CALM = 0.25
"""Seconds without a refusal, after which there may be more room."""
_PER_SECOND = 2.0
"""Calls that may be sent in a second, even if none is accepted."""
_SHORTEST_PAUSE = 0.05
"""Seconds until one that was not sent may be tried again, if the server did not say when."""
_LONGEST_HINT = 60.0


class Sent(NamedTuple):
    """A call that is sent: the key of its budget, and whether one was taken out for it."""

    key: int
    is_paid: bool


class Throttle:
    """The calls of one client to one model, of which some are not sent.

    Times are those of `time.monotonic`, in seconds.
    """

    def __init__(self, connection: Connection, model: str, budgets: Budgets) -> None:
        self._endpoint = connection.endpoint
        self._budgets = budgets
        self._kind = (
            str(connection.endpoint),
            model,
            connection.token or "",
            connection.priority or "",
        )
        self._keys: dict[int, int] = {}

    def around(
        self, attempt: Callable[[], Awaitable[T]], state: CallState
    ) -> Callable[[], Awaitable[T]]:
        """Return the attempt, which raises Overloaded at once if it is better not made."""

        async def counted() -> T:
            sent = self.send(state.deadline.timeout, time.monotonic())
            try:
                answer = await attempt()
            except Overloaded as error:
                self.refused(sent, error, time.monotonic())
                raise
            except (UsageError, InferenceFailed):
                self.accepted(sent, time.monotonic())
                raise
            self.accepted(sent, time.monotonic())
            return answer

        return counted

    def send(self, timeout: float, now: float) -> Sent:
        """Take note of a call that is about to be sent. Raises Overloaded if it should not be."""
        key = self._key(timeout)
        budget = self._read(key, now)
        if budget is None or budget.left >= _ALL_ARE_SENT:
            return Sent(key, is_paid=False)
        if budget.left < 1:
            raise _not_sent(self._endpoint, budget, now)
        self._budgets.write(key, budget._replace(left=budget.left - 1), now)
        return Sent(key, is_paid=True)

    def accepted(self, sent: Sent, now: float) -> None:
        """Take note that the server did what it was asked to, or said what is wrong with it."""
        budget = self._read(sent.key, now)
        if budget is not None and budget.left < FULL:
            left = min(FULL, budget.left + _earned(sent, budget, now))
            self._budgets.write(sent.key, budget._replace(left=left), now)

    def refused(self, sent: Sent, error: Overloaded, now: float) -> None:
        """Take note of the server's refusal."""
        budget = self._read(sent.key, now)
        left = FULL if budget is None else budget.left
        left = max(0.0, left if sent.is_paid else left - 1)
        if error.price is not None:
            left = min(left, FULL * _RATIO * (1 - error.price))
        pause = min(error.retry_after or 0.0, _LONGEST_HINT)
        price = -1.0 if error.price is None else error.price
        self._budgets.write(sent.key, Budget(left, now, now, now + pause, price), now)

    def _key(self, timeout: float) -> int:
        """Return the key of the calls with a timeout of that order of magnitude: powers of 2."""
        magnitude = math.frexp(timeout)[1]
        if magnitude not in self._keys:
            self._keys[magnitude] = key_of(*self._kind, str(magnitude))
        return self._keys[magnitude]

    def _read(self, key: int, now: float) -> Budget | None:
        """Return the budget, with what time has put in."""
        budget = self._budgets.read(key, now)
        if budget is None:
            return None
        earned = max(0.0, now - budget.counted_at) * _PER_SECOND
        counted_at = max(now, budget.counted_at)  # another process may have counted since
        left = min(FULL, budget.left + earned)
        return budget._replace(left=left, counted_at=counted_at)


def _earned(sent: Sent, budget: Budget, now: float) -> float:
    """Return what an accepted call puts in."""
    if not sent.is_paid:
        return _RATIO - 1
    tells_price = budget.price >= 0
    return _RATIO_WITH_PRICE if tells_price and now - budget.refused_at < _CALM else _RATIO


def throttle_for(connection: Connection, model: str) -> Throttle | None:
    """Return what spares the server; None if the client is told to send all calls."""
    return Throttle(connection, model, Budgets(shared_path())) if connection.throttle else None


def _not_sent(endpoint: Endpoint, budget: Budget, now: float) -> NotSent:
    next_one = (1 - budget.left) / _PER_SECOND
    pause = max(_SHORTEST_PAUSE, next_one, budget.come_back_at - now)
    share = "most calls" if budget.price < 0 else f"{budget.price:.0%} of the calls"
    return NotSent(
        f"the call was not sent: the server at {endpoint} refuses {share} of its kind now, the "
        f"last one {in_words(max(0.0, now - budget.refused_at))} ago",
        hint=f"try again in {in_words(pause)}, or with fewer requests at once; to send every call: "
        "{no_throttle}",
        retry_after=pause,
    )
