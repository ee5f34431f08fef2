"""One call from its beginning to its end: what it is doing, what that took, what failed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlserve.client.answers import Retry, Timings
from mlserve.client.retries import ONCE, Retries
from mlserve.client.tracing import CallIds
from mlserve.errors import Transient


@dataclass(slots=True)
class Watch:
    """What a call is doing now, for the message when its deadline passes, and the time it took.

    `began` is the moment on the monotonic clock that its deadline counts from. `spent` is in
    milliseconds by part: start (before the call began), read, connect, request (an exchange with
    the server), and wait (attempts in vain, and the pauses after them). At every moment from
    `began` on one part runs, so that they add up. `ids` go along with every request.
    """

    ids: CallIds
    began: float
    allowed: Retries = ONCE
    doing: str = "starting"
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("start", "read", "connect", "request", "wait"), 0.0)
    )
    retries: list[Retry] = field(default_factory=list)
    has_asked: bool = False
    _part: str = "start"
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.began

    @property
    def attempts(self) -> int:
        """How often the server was asked for the same thing: once more than it was in vain."""
        return len(self.retries) + 1

    def enter(self, part: str, doing: str) -> None:
        """Ends the part that ran and begins another one."""
        self._count()
        self._part, self.doing = part, doing
        self.has_asked = self.has_asked or part == "connect"

    def _count(self) -> None:
        """Counts the part that runs up to now."""
        now = time.monotonic()
        self.spent[self._part] += (now - self._since) * 1000
        self._since = now

    def spent_so_far(self) -> dict[str, float]:
        """A copy of `spent`, with what the running part took until now."""
        self._count()
        return dict(self.spent)

    def pause(self, error: Transient) -> float:
        """Seconds to wait before the next attempt; infinity: there is to be none."""
        return self.allowed.pause(self.attempts, error)

    def begin_again(self, error: Transient, pause: float, before: Mapping[str, float]) -> None:
        """Notes that an attempt was in vain. `before` is what was spent before it."""
        self.enter("wait", f"waiting to ask again after: {error.message}")
        for part in ("connect", "request"):
            self.spent["wait"] += self.spent[part] - before[part]
            self.spent[part] = before[part]
        self.retries.append(Retry(error.kind, error.message, pause * 1000))

    def timings(self, server_ms: Mapping[str, float]) -> Timings:
        """Where the time went until now; `server_ms` is the server's word, taken if it can be."""
        self._count()
        exchange = self.spent["request"]
        told = sum(server_ms.values())
        if told > exchange:
            server_ms, told = {}, 0.0
        return Timings(
            start=self.spent["start"],
            read=self.spent["read"],
            connect=self.spent["connect"],
            queue=server_ms.get("queue"),
            decode=server_ms.get("decode"),
            run=server_ms.get("run"),
            encode=server_ms.get("encode"),
            receive=exchange - told,
            wait=self.spent["wait"],
            total=sum(self.spent.values()),
        )

    def retold(self, message: str) -> str:
        """The last error's message, with what came before it."""
        if not self.retries:
            return message
        first = self.retries[0].message
        before = "" if first == message else f"; at first: {first}"
        return f"{message} (after {self.attempts} attempts{before})"

    def details(self) -> dict[str, Any]:
        """The call as data, for an error that ends it; nothing before the server was asked."""
        if not self.has_asked:
            return {}
        return {
            "attempts": self.attempts,
            "retries": [retry.to_json() for retry in self.retries],
            "request_id": self.ids.request_id,
            "trace_id": self.ids.trace.id,
        }
