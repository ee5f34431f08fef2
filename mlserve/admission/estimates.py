"""Estimate how much of the server's time a call takes, from measurements.

The measure is *demand*: seconds of the whole server. While k calls run at once, each is charged 1/k
of the time (`Meter`). If a runtime runs calls one after another, or spreads each over all cores, a
call's demand does not depend on how many run beside it; if its runs do not slow each other down,
the demand falls as more of them run. Either way `demand x calls running at once` is how long a call
runs, and the sum of the demands is how long the server needs for all of them.

A call that is alone in the server has all threads, and beside others its share. The work is the
same, but it takes more of the server's time alone: no model is twice as fast on twice the threads.
So a call that ran alone from start to end is learned apart. Where only one of the two has been
measured, it stands for both.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import NamedTuple, Self, TypeVar

_WEIGHT = 1 / 16
"""The weight of a new measurement, once there have been that many (16)."""
_LARGEST_STEP = 8.0
"""A measurement counts as at most this many times the mean, so that one stall changes little."""
_SURE = 3
"""Measurements needed before an estimate may rule out a deadline altogether."""
_MEMORY = 10.0
"""Seconds for which an estimate holds without a new measurement, and at least ..."""
_MEMORY_IN_RUNS = 20
"""... this many times its mean, so that retrying takes a small part of the server's time."""
_EXACT_ROWS = 16
_USUAL_WORK = 2**24
"""Bytes of decoding that make no difference: an image of 5 megapixels."""
_ALIKE = 1 / 8
"""A measurement that differs by no more than this part of the mean is like the others."""
_GLANCE = 0.1
_MOST_KINDS = 1000
_MOST_DOUBLINGS = 17
"""A batch is of 2**16 calls at most."""


class CostKey(NamedTuple):
    """What makes calls alike: model, version, signature, rows of the batch, and image sizes.

    `decoding` is the decoding work in powers of two from 16 MB on, as told from the files: an image
    of 100 megapixels takes a hundred times as long as one of one. Until the request has been read,
    `size` is negative and stands for the body's length, and `signature` is empty if unknown. Of a
    model on a ladder, `climbs` tells the calls that climbed from those that did not; None is any.
    `version` is negative if only the request's head was read, which need not tell it.
    """

    model: str
    version: int
    signature: str
    size: int
    decoding: int = 0
    climbs: bool | None = None

    @classmethod
    def from_rows(
        cls, model: str, version: int, signature: str, rows: int, decode_work: int = 0
    ) -> Self:
        """Return the key of a call whose signature and rows are known.

        Beyond 16, rows count in powers of two. `decode_work` is the bytes that decoders touch for
        its images, where they are known.
        """
        size = rows if rows <= _EXACT_ROWS else 1 << (rows - 1).bit_length()
        return cls(model, version, signature, size, (decode_work // _USUAL_WORK).bit_length())

    @classmethod
    def from_length(cls, model: str, version: int, signature: str, body: int) -> Self:
        """Return the key of an unread call from its body's length in bytes, in powers of four.

        `signature` is the one that it seems to ask for, or empty.
        """
        return cls(model, version, signature, -1 - (body.bit_length() + 1) // 2)

    @classmethod
    def from_head(cls, model: str) -> Self:
        """Return the key of a call of which only the head was read; `model` is empty if unknown."""
        return cls(model, -1, "", -1)

    def climbing(self, climbs: bool | None) -> CostKey:
        """Return the key of such calls that climbed, or that did not; None for any."""
        return self if climbs is None else self._replace(climbs=climbs)

    @property
    def has_version(self) -> bool:
        """Whether the version is known."""
        return self.version >= 0

    @property
    def is_read(self) -> bool:
        """Whether the request has been read, so that calls of this kind take equally long."""
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
        """The demand of a lucky call."""
        return self.mean - self.spread

    @property
    def is_sure(self) -> bool:
        """Whether there are enough measurements to refuse a call on an idle server."""
        return self.samples >= _SURE

    def holds(self, now: float) -> bool:
        """Return whether it was confirmed recently, as refused calls are not measured."""
        return now - self.seen <= max(_MEMORY, _MEMORY_IN_RUNS * self.mean)

    def agrees(self, seconds: float) -> bool:
        """Return whether a measurement is much like those before it."""
        return abs(seconds - self.mean) <= max(self.spread, _ALIKE * self.mean)

    def learn(self, seconds: float, now: float) -> None:
        """Add a measurement."""
        self.samples += 1
        self.seen = now
        weight = max(1 / self.samples, _WEIGHT)
        error = min(seconds, _LARGEST_STEP * self.mean) - self.mean
        self.mean += weight * error
        self.spread += weight * (abs(error) - self.spread)


class Estimates:
    """The estimates of all kinds of call that have been measured."""

    def __init__(self) -> None:
        self._kinds: dict[CostKey, Estimate] = {}
        self._alone: dict[CostKey, Estimate] = {}
        """The demand of calls beside which nothing ran; not in `_kinds`."""
        self._batches: dict[tuple[CostKey, int], Estimate] = {}
        """The demand of each call of a batch, by the batch's calls in powers of two."""
        self._any: Estimate | None = None
        self._least: dict[str, tuple[float, CostKey | None]] = {}
        self.factor = 1.0
        """By how much calls take longer than was measured, while the server is busy (`pace`)."""

    def of(self, kind: CostKey, now: float, *, alone: bool = False) -> Estimate | None:
        """Return the estimate of that kind; None without one, or when it no longer holds.

        It is of a call beside others, or as measured of one that is `alone`.
        """
        measured = self._confirmed(kind, now, alone=alone)
        return measured if measured is None or alone else self._scaled(measured)

    def _confirmed(self, kind: CostKey, now: float, *, alone: bool) -> Estimate | None:
        first, other = (self._alone, self._kinds) if alone else (self._kinds, self._alone)
        found = first.get(kind)
        if found is None or not found.holds(now):
            found = other.get(kind)
        return found if found is not None and found.holds(now) else None

    def least_of(self, model: str, now: float) -> CostKey | None:
        """Return the kind of call of that model that takes least; None if none is measured.

        It may be that of `_GLANCE` seconds ago.
        """
        at, least = self._least.get(model, (-_GLANCE, None))
        if now - at >= _GLANCE:
            kinds = [kind for kind in (self._kinds | self._alone) if kind.model == model]
            means = {k: e.mean for k in kinds if (e := self.of(k, now)) is not None}
            least = min(means, key=means.__getitem__, default=None)
            self._least[model] = now, least
        return least

    def guess(self, kind: CostKey) -> Estimate:
        """Return the latest estimate of that kind, else that of all calls, else an empty one."""
        return self._scaled(self._measured(kind))

    def guess_in_batch(self, kind: CostKey, together: int) -> Estimate:
        """Return the estimate of a call among that many that run as one batch."""
        return self._scaled(self.measured_in_batch(kind, together))

    def _scaled(self, measured: Estimate) -> Estimate:
        if self.factor == 1.0:
            return measured
        mean, spread = measured.mean * self.factor, measured.spread * self.factor
        return replace(measured, mean=mean, spread=spread)

    def _measured(self, kind: CostKey) -> Estimate:
        known = _latest(self._kinds.get(kind), self._alone.get(kind))
        return known or self._any or Estimate(0.0, 0.0, samples=0)

    def measured_in_batch(self, kind: CostKey, together: int) -> Estimate:
        """Return what was measured of a call among that many that run as one batch.

        Without one for that many, it is what the call takes in the next smaller batch measured, and
        no more than a whole larger batch takes; without those, the call's own.
        """
        size = (together - 1).bit_length()
        alone = None if size else self._alone.get(kind)
        exact = _latest(self._batches.get((kind, size)), alone)
        if exact is not None:
            return exact
        if not self._batches:
            return self._measured(kind)
        smaller = (self._batches.get((kind, less)) for less in range(size - 1, -1, -1))
        found = next((estimate for estimate in smaller if estimate is not None), None)
        for more in range(size + 1, _MOST_DOUBLINGS):
            if (larger := self._batches.get((kind, more))) is not None:
                share = 2.0 ** (more - size)
                if found is None or larger.mean * share < found.mean:
                    return replace(larger, mean=larger.mean * share, spread=larger.spread * share)
                break
        return found or self._measured(kind)

    def learn(self, kind: CostKey, seconds: float, now: float, *, alone: bool = False) -> None:
        """Add a measurement of a call of that kind, beside others or `alone`."""
        if self._any is None:
            self._any = Estimate(seconds, now)
        else:
            self._any.learn(seconds, now)
        _learn(self._alone if alone else self._kinds, kind, seconds, now)

    def learn_run(
        self,
        answered: Set[CostKey],
        ended: Set[CostKey],
        seconds: float,
        now: float,
        *,
        together: int = 1,
        alone: bool = False,
    ) -> None:
        """Add a measurement of calls that ran together: one for each kind, however many calls.

        One stall of a batch must not count for each of its calls. The kinds in `ended` were ended
        early and take at least that long. `seconds` is the demand of each of the calls. `alone`
        says that nothing ran beside them.
        """
        is_single = alone and together == 1
        for kind in answered:
            self.learn(kind, seconds, now, alone=is_single)
            if not is_single:
                _learn(self._batches, (kind, (together - 1).bit_length()), seconds, now)
        for kind in ended - answered:
            self.learn_at_least(kind, seconds, now, alone=is_single)

    def learn_at_least(
        self, kind: CostKey, seconds: float, now: float, *, alone: bool = False
    ) -> None:
        """Note that a call of that kind, ended early, takes at least this long.

        That confirms an estimate of not much more: there is no other measurement of calls whose
        deadlines are all too short.
        """
        known = self._confirmed(kind, now, alone=alone)
        if known is None or seconds > known.mean or known.agrees(seconds):
            mean = 0.0 if known is None else known.mean
            self.learn(kind, max(seconds, mean), now, alone=alone)


def _latest(first: Estimate | None, other: Estimate | None) -> Estimate | None:
    """Return the first of these, unless it no longer held when the other was confirmed."""
    if first is None or other is None:
        return first or other
    return first if first.holds(other.seen) else other


Key = TypeVar("Key")


def _learn(estimates: dict[Key, Estimate], key: Key, seconds: float, now: float) -> None:
    """Add a measurement; of too many estimates, the oldest are forgotten.

    An estimate that no longer holds is replaced, unless the measurement agrees with it.
    """
    estimate = estimates.get(key)
    if estimate is not None and (estimate.holds(now) or estimate.agrees(seconds)):
        estimate.learn(seconds, now)
        return
    estimates[key] = Estimate(seconds, now)
    if len(estimates) > _MOST_KINDS:
        # Many at once: to look through all of them for each new one would take too long.
        for old in nsmallest(_MOST_KINDS // 4, estimates, key=lambda old: estimates[old].seen):
            del estimates[old]


class Meter:
    """A clock that runs k times slower while k calls run, and so shows the share of each.

    Its advance between a call's start and end is the call's demand.
    """

    def __init__(self) -> None:
        self._shown = 0.0
        self._at = 0.0
        self._running = 0

    def show(self, now: float) -> float:
        """Return the reading."""
        if self._running:
            self._shown += max(0.0, now - self._at) / self._running
        self._at = now
        return self._shown

    def change(self, now: float, running: int) -> float:
        """Set how many calls run from now on; return the reading."""
        shown = self.show(now)
        self._running = running
        return shown
