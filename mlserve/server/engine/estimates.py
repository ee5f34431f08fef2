"""How much of the server's time a call takes: estimates that follow what is measured.

The measure is *demand*: seconds of the whole server. While k calls run at once, each is charged a
k-th of the time (`Meter`). A runtime that runs one call after the other, or spreads each over all
cores, needs the same demand for a call however many run beside it; one whose runs do not disturb
each other shows less demand the more of them run. Either way `demand x calls that run at once` is
how long a call is worked on, and the sum of the demands is how long the server needs for them all.

Nothing here looks at a clock: the caller gives the time, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

_WEIGHT = 1 / 16
"""The weight of a new measurement, once there have been as many."""
_LARGEST_STEP = 8.0
"""A measurement counts as at most so many times the mean: one stall is not how long calls take."""
_SURE = 3
"""Measurements from which on an estimate may say that a deadline is too short in any case."""
_MEMORY = 10.0
"""Seconds that an estimate holds without a new measurement, and at least ..."""
_MEMORY_IN_RUNS = 20
"""... so many times its mean: what is tried again then is a small part of the server's time."""
_EXACT_ROWS = 16
_USUAL_WORK = 2**24
"""Bytes of decoding that make no difference: an image of 5 megapixels."""
_MOST_KINDS = 1000


class CostKey(NamedTuple):
    """What calls are alike in: model, version, signature, rows of the batch, and its images.

    `decoding` is how much there is to decode, in powers of two from 16 MB on, as told from the
    files: an image of 100 megapixels takes a hundred times as long as one of one.
    Until the request has been read, `size` is below zero and stands for the body's length, and
    `signature` is empty where it is not known either.
    """

    model: str
    version: int
    signature: str
    size: int
    decoding: int = 0

    @classmethod
    def from_rows(
        cls, model: str, version: int, signature: str, rows: int, decode_work: int = 0
    ) -> Self:
        """A call whose signature and rows are known; beyond 16, rows count in powers of two.

        `decode_work` is the bytes that decoders touch for its images, where they are known.
        """
        size = rows if rows <= _EXACT_ROWS else 1 << (rows - 1).bit_length()
        return cls(model, version, signature, size, (decode_work // _USUAL_WORK).bit_length())

    @classmethod
    def from_length(cls, model: str, version: int, signature: str, body: int) -> Self:
        """A call of which only the body's length, in bytes, is known: it counts in powers of four.

        `signature` is the one that it seems to ask for, or empty.
        """
        return cls(model, version, signature, -1 - (body.bit_length() + 1) // 2)

    @property
    def is_read(self) -> bool:
        """Whether the request has been read, so that all calls of this kind take alike long."""
        return self.size >= 0


@dataclass(slots=True)
class Estimate:
    """The demand of one kind of call in seconds: its mean, and the mean deviation from it."""

    mean: float
    seen: float
    spread: float = 0.0
    samples: int = 1

    @property
    def least(self) -> float:
        """What a lucky call takes."""
        return self.mean - self.spread

    @property
    def is_sure(self) -> bool:
        """Whether it has been measured often enough to refuse a call on an idle server."""
        return self.samples >= _SURE

    def holds(self, now: float) -> bool:
        """Whether it has been confirmed of late; what is refused by it is not measured."""
        return now - self.seen <= max(_MEMORY, _MEMORY_IN_RUNS * self.mean)

    def learn(self, seconds: float, now: float) -> None:
        """Takes in a measurement."""
        self.samples += 1
        self.seen = now
        weight = max(1 / self.samples, _WEIGHT)
        error = min(seconds, _LARGEST_STEP * self.mean) - self.mean
        self.mean += weight * error
        self.spread += weight * (abs(error) - self.spread)


class Estimates:
    """The estimate of each kind of call that has been measured."""

    def __init__(self) -> None:
        self._kinds: dict[CostKey, Estimate] = {}
        self._any: Estimate | None = None

    def of(self, kind: CostKey, now: float) -> Estimate | None:
        """The estimate of that kind; None when there is none, or none that still holds."""
        estimate = self._kinds.get(kind)
        return estimate if estimate is not None and estimate.holds(now) else None

    def guess(self, kind: CostKey) -> Estimate:
        """The latest estimate of that kind, else that of all calls, else nothing at all."""
        return self._kinds.get(kind) or self._any or Estimate(0.0, 0.0, samples=0)

    def learn(self, kind: CostKey, seconds: float, now: float) -> None:
        """Takes in what a call of that kind took."""
        if self._any is None:
            self._any = Estimate(seconds, now)
        else:
            self._any.learn(seconds, now)
        if (estimate := self.of(kind, now)) is not None:
            estimate.learn(seconds, now)
            return
        self._kinds[kind] = Estimate(seconds, now)
        if len(self._kinds) > _MOST_KINDS:
            del self._kinds[min(self._kinds, key=lambda old: self._kinds[old].seen)]

    def learn_at_least(self, kind: CostKey, seconds: float, now: float) -> None:
        """Takes in that a call of that kind, which was not waited for, takes longer than this."""
        if seconds > self.guess(kind).mean:
            self.learn(kind, seconds, now)


class Meter:
    """A clock that runs k times slower while k calls run: it shows the share of each.

    What it advances between a call's start and end is the call's demand.
    """

    def __init__(self) -> None:
        self._shown = 0.0
        self._at = 0.0
        self._running = 0

    def show(self, now: float) -> float:
        """What the clock shows."""
        if self._running:
            self._shown += max(0.0, now - self._at) / self._running
        self._at = now
        return self._shown

    def change(self, now: float, running: int) -> float:
        """What it shows as from now on so many calls run."""
        shown = self.show(now)
        self._running = running
        return shown
