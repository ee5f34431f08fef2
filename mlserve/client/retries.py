"""How often a call is tried, and where its time goes: the policy, the call's state, the loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from mlserve.client.answers import Retry, Timings
from mlserve.client.call import CallIds
from mlserve.client.tracing import CallSpan
from mlserve.deadline import Deadline, is_count, is_number
from mlserve.errors import Overloaded, Transient, UsageError

if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")
_MOST_DOUBLINGS = 64
"""More would overflow: 2.0**1024 is not a float."""


class NotSent(Overloaded):
    """The call was not sent, because the server would most likely refuse it (`throttle`).

    In JSON it is `overloaded`, with `throttled`.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.details["throttled"] = True

    @property
    def kind(self) -> str:
        return "overloaded"


@dataclass(frozen=True, slots=True)
class Retries:
    """How a call that met a `Transient` error is retried, always within its one deadline.

    The n-th wait is a random part of `min(cap, base * 2**n)` seconds, added to the wait that the
    server asked for, if it did. `max_attempts` 1 never retries. With `outlast_overload`, an
    overloaded server is asked again until the deadline, however many attempts that takes; without
    it, a call that is not sent to such a server ends at once, unless it was sent before. `random`
    is the source of randomness, for tests that need the same waits each time. Raises UsageError if
    no attempt is allowed, or if `base` or `cap` is not a valid number of seconds.
    """

    max_attempts: int = 5
    base: float = 0.05
    cap: float = 1.0
    outlast_overload: bool = False
    random: Random | None = None

    def __post_init__(self) -> None:
        for name in ("base", "cap"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and value >= 0):
                raise UsageError(
                    f"{name} must be a number of seconds, at least 0, not {value!r}",
                    hint=f"the default is {self.__dataclass_fields__[name].default}",
                )
        if not is_count(self.max_attempts):
            raise UsageError(
                f"max_attempts must be at least 1, not {self.max_attempts!r}",
                hint="1 asks once and never again",
            )

    def pause(self, failed: int, error: Transient) -> float:
        """Return the seconds to wait after the `failed`-th failure; infinity: do not retry.

        A call that was not sent has not failed once more, and 0 is one that never was.
        """
        is_patient = self.outlast_overload and isinstance(error, Overloaded)
        if not 1 <= failed < self.max_attempts and not is_patient:
            return float("inf")
        longest = min(self.cap, self.base * 2.0 ** min(failed - 1, _MOST_DOUBLINGS))
        return (error.retry_after or 0.0) + self._chance().uniform(0, longest)

    def for_many(self) -> Retries:
        """Return the policy for one of many calls, which may fill the server's queue themselves.

        They slow down to what the server takes. A policy that never retries stays as it is.
        """
        return self if self.max_attempts == 1 else replace(self, outlast_overload=True)

    def _chance(self) -> Random:
        if self.random is not None:
            return self.random
        from random import SystemRandom  # most calls need no randomness

        return SystemRandom()


DEFAULT_RETRIES = Retries()
ONCE = Retries(max_attempts=1)
"""For callers that measure, or that retry on their own."""


@dataclass(slots=True)
class CallState:
    """One call to a server: its deadline, its current activity, and the time it took.

    `deadline` is that of the whole call; `ids` are sent with every request, and with a `span` those
    of its attempt; `allowed` limits the attempts, and `retries` are those that failed. `spent` is
    in milliseconds by part: start (before the call began), read, connect, request (an exchange with
    the server), and wait (failed attempts and the pauses after them). From the start of the
    deadline on, exactly one part runs at any moment, so that they add up.
    """

    deadline: Deadline
    ids: CallIds
    allowed: Retries
    span: CallSpan | None = None
    doing: str = "starting"
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("start", "read", "connect", "request", "wait"), 0.0)
    )
    retries: list[Retry] = field(default_factory=list)
    not_sent: int = 0
    """How many of the retries followed an attempt that was not sent."""
    has_asked: bool = False
    _part: str = "start"
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.deadline.began_at

    @property
    def attempts(self) -> int:
        """How often this request was sent: one more than the failed attempts."""
        return len(self.retries) + 1 - self.not_sent

    def headers(self) -> dict[str, str]:
        """Return the headers, or gRPC metadata, of the attempt that is being made."""
        headers = self.ids.headers()
        return headers if self.span is None else headers | self.span.headers()

    def require(self) -> float:
        """Return the seconds left; raise DeadlineExceeded, naming the activity, if none are."""
        return self.deadline.require(self.doing)

    def enter(self, part: str, doing: str) -> None:
        """End the running part and begin another."""
        self._count()
        self._part, self.doing = part, doing
        self.has_asked = self.has_asked or part == "connect"

    def _count(self) -> None:
        now = time.monotonic()
        self.spent[self._part] += (now - self._since) * 1000
        self._since = now

    def spent_so_far(self) -> dict[str, float]:
        """Return a copy of `spent` that includes the running part until now."""
        self._count()
        return dict(self.spent)

    def pause(self, error: Transient) -> float:
        """Return the seconds to wait before the next attempt; infinity: do not retry."""
        return self.allowed.pause(self.attempts - isinstance(error, NotSent), error)

    def begin_again(self, error: Transient, pause: float, before: Mapping[str, float]) -> None:
        """Record a failed attempt. `before` is `spent` at its start."""
        self.enter("wait", f"waiting to ask again after: {error.message}")
        self.not_sent += isinstance(error, NotSent)
        for part in ("connect", "request"):
            self.spent["wait"] += self.spent[part] - before[part]
            self.spent[part] = before[part]
        self.retries.append(Retry(error.kind, error.message, pause * 1000))

    def timings(self, server_ms: Mapping[str, float]) -> Timings:
        """Return where the time went until now.

        `server_ms` is ignored if it exceeds the measured exchange.
        """
        self._count()
        exchange = self.spent["request"]
        in_server = sum(server_ms.values())
        if in_server > exchange:
            server_ms, in_server = {}, 0.0
        return Timings(
            start=self.spent["start"],
            read=self.spent["read"],
            connect=self.spent["connect"],
            queue=server_ms.get("queue"),
            decode=server_ms.get("decode"),
            run=server_ms.get("run"),
            encode=server_ms.get("encode"),
            receive=exchange - in_server,
            wait=self.spent["wait"],
            total=sum(self.spent.values()),
        )

    def with_attempts(self, message: str) -> str:
        """Return the last error's message, with what came before it."""
        if not self.retries:
            return message
        first = self.retries[0].message
        before = "" if first == message else f"; at first: {first}"
        return f"{message} (after {self.attempts} attempts{before})"

    def details(self) -> dict[str, Any]:
        """Return data about the call for its final error; empty if the server was never asked."""
        if not self.has_asked:
            return {}
        return {
            "attempts": self.attempts,
            "retries": [retry.to_json() for retry in self.retries],
            "request_id": self.ids.request_id,
            "trace_id": self.ids.trace.id,
        }


async def with_retries(attempt: Callable[[], Awaitable[T]], state: CallState) -> T:
    """Return the result of `attempt`, which is made again after transient errors.

    The last error is raised at once if the next attempt would come after the deadline.
    """
    while True:
        before = state.spent_so_far()
        try:
            return await attempt()
        except Transient as error:
            pause = state.pause(error)
            if pause >= state.deadline.remaining():
                raise
            state.begin_again(error, pause, before)
        await asyncio.sleep(pause)
