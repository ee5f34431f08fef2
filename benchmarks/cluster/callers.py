"""Callers that ask without pause, and keep what became of each call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from subjects import Subject

from mlserve import AsyncClient
from mlserve.client.retries import Retries
from mlserve.errors import MlserveError

Transport = Literal["grpc", "rest"]
TIMEOUT = 5.0
_AFTER_FAILURE = 0.05


@dataclass(frozen=True)
class Call:
    """One call: when it began and ended on the monotonic clock, and how it failed, if it did."""

    began: float
    ended: float
    who: str
    failure: str = ""


@dataclass
class Callers:
    """What became of the calls of all callers so far."""

    calls: list[Call] = field(default_factory=list)

    def since(self, moment: float) -> list[Call]:
        """The calls that ended after that moment, in that order."""
        return sorted((c for c in self.calls if c.ended >= moment), key=lambda c: c.ended)

    def failures(self, who: str = "") -> Counter[str]:
        """How many calls of those callers failed, by the reason."""
        return Counter(c.failure for c in self.calls if c.failure and c.who.startswith(who))

    def count(self, who: str = "") -> int:
        """How many calls of those callers have ended."""
        return sum(c.who.startswith(who) for c in self.calls)

    def longest_gap(self, begin: float, end: float) -> float:
        """The longest time between these moments in which no call was answered, in seconds."""
        answers = [c.ended for c in self.since(begin) if not c.failure and c.ended <= end]
        moments = [begin, *answers, end]
        return max(after - before for before, after in pairwise(moments))


@contextmanager
def asking(grpc: str, rest: str, subject: Subject, *, each: int) -> Iterator[Callers]:
    """Have `each` callers of four kinds ask, one call after the other, until the block ends.

    Over gRPC and REST, with mlserve's client as it comes, and with one that never tries again
    (`once`). Each call has `TIMEOUT` seconds.
    """
    callers, ended = Callers(), threading.Event()

    async def one(endpoint: str, who: str, retries: Retries) -> None:
        async with AsyncClient(
            endpoint, model=subject.model, retries=retries, throttle=False
        ) as client:
            while not ended.is_set():
                began, failure = time.monotonic(), ""
                try:
                    await subject.ask(client, TIMEOUT)
                except MlserveError as error:
                    failure = f"{type(error).__name__}: {error.message}"
                callers.calls.append(Call(began, time.monotonic(), who, failure))
                if failure:
                    await asyncio.sleep(_AFTER_FAILURE)

    async def every() -> None:
        kinds = {"": Retries(), "once ": Retries(max_attempts=1)}
        await asyncio.gather(
            *(
                one(endpoint, f"{name}{transport}", retries)
                for transport, endpoint in (("grpc", grpc), ("rest", rest))
                for name, retries in kinds.items()
                for _ in range(each)
            )
        )

    thread = threading.Thread(target=lambda: asyncio.run(every()))
    thread.start()
    try:
        yield callers
    finally:
        ended.set()
        thread.join()
