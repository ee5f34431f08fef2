"""How long callers of one kind wait: a survival curve, from those who left and those who stayed.

The curve is Kaplan and Meier's (1958), as a life table: waits are counted in bins about 10 % wide,
and of those that reach a bin, a share leaves in it. A caller that was answered in a bin is no
evidence beyond it. Within it, it is evidence if it was answered later than others left: a server
that answers callers just before their timeout must not take them for patient.

Old evidence gives way to new. All counts halve every minute. A bin remembers no more than about the
last 128 that reached it. And it forgets at once, where those of now cannot be those of before:

- the leaves of a bin, when so many have stood it since that some must have left if callers were
  still the same; also when nobody has left in it for 90 s. Otherwise a server that refuses early,
  and so sees nobody leave any more, would never learn that its callers have changed;
- those who stood a bin, when twelve in a row have left in it.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, sqrt
from operator import add
from typing import NamedTuple

STANDING = 0.8
"""The share of callers that are to stand a wait."""
_HARDLY_ANY = 0.1
_PER_DOUBLING = 7
_BINS = 117
_BIN_OF_A_SECOND = 70.4
"""In sevenths of a doubling. So timeouts in round numbers of seconds lie inside their bins, not on
an edge: waits are seen a few per cent too short or too long."""
_STEPS = 4
"""Steps in a bin, by which leaves and answers within it are told apart."""
_PLACES = [
    2 ** ((place / _STEPS - _BIN_OF_A_SECOND) / _PER_DOUBLING) for place in range(_STEPS * _BINS)
]
"""Where each step begins, in seconds: from 1 ms to 100 s."""
_EDGES = [0.0, *_PLACES[_STEPS::_STEPS]]
"""Where each bin begins."""
_HALF_LIFE = 60.0
_MOST = 128.0
"""Callers that a bin remembers."""
_SEVERAL = 3.5
"""Callers that are evidence: four, some time ago."""
_SIGMAS = 1.5
"""By how many standard deviations survival must be below `STANDING` to be taken for it."""
_MEMORY = 90.0
"""Seconds after which the leaves of a bin are forgotten, if nobody has left in it since."""
_MISSED = 8.0
"""Leaves that were to be expected, without one that came, after which they are forgotten."""
_RUN = 12
"""Callers in a row that leave in one bin, after which those who stood it are forgotten."""
_HALF = 0.5
_AT_ONCE = 64
"""Notes that are put into the curve at once, when it is asked for; fewer, after ..."""
_DELAY = 0.1
"""... these seconds, and ..."""
_FEW = 3
_LONG_DELAY = 1.0
"""... as few as these after so many."""
_MOST_NOTES = 128
_OLDEST_NOTE = 5.0
_STEP = 5.0
"""Seconds between two steps of the decay."""


def place_of(seconds: float) -> int:
    """Return the step that such a wait falls into, from 0 up."""
    return max(bisect_right(_PLACES, seconds) - 1, 0)


class Reading(NamedTuple):
    """What a curve says of callers that wait at least some time.

    At least `STANDING` of them wait `cliff` seconds, and not much longer; None if that has not been
    seen. Several were seen to wait `stood` seconds. Hardly any wait much longer than `longest`,
    which is infinite if that has not been seen.
    """

    cliff: float | None
    stood: float
    longest: float = inf


@dataclass(slots=True)
class _Leaves:
    """Those who left in one bin: how many, the last of them when, and in which step on average.

    `beyond` is how many went beyond the bin, and `since` how many of them since the last one left.
    All three numbers are decayed counts. `run` is how many in a row have left.
    """

    last: float
    beyond: float
    count: float = 0.0
    step: float = 0.0
    since: float = 0.0
    run: int = 0

    def add(self, steps: Sequence[int]) -> None:
        """Add those who left in these steps of the bin."""
        self.step = (self.step * self.count + sum(steps)) / (self.count + len(steps))
        self.count += len(steps)

    def scale(self, factor: float) -> None:
        """Let what was counted so far count for less."""
        self.count *= factor
        self.beyond *= factor


class Survival:
    """The survival curve of one kind of caller, in decayed counts."""

    __slots__ = (
        "_aged_at",
        "_begun",
        "_leaves",
        "_notes",
        "_reached",
        "_readings",
        "_top",
        "left",
        "noted_at",
        "stayed",
    )

    def __init__(self) -> None:
        self.left = self.stayed = 0
        """How many were ever seen to leave and to stay, as of the last drawing."""
        self.noted_at = 0.0
        self._notes: list[int] = []
        """The places of waits that are not in the curve yet; inverted for those who left."""
        self._begun = 0.0
        """When the first of the notes was taken."""
        self._reached: list[float] = []
        """How many have reached each bin. Empty at first: many callers come only once or twice."""
        self._leaves: dict[int, _Leaves] = {}
        self._top = -1
        """The last bin that several have reached."""
        self._aged_at = 0.0
        self._readings: dict[int, Reading] = {}

    @property
    def count(self) -> int:
        """How many were ever seen."""
        return self.left + self.stayed + len(self._notes)

    def note(self, note: int, now: float) -> None:
        """Take note of a wait: its `place_of` if the caller stayed, inverted (`~`) if it left."""
        notes = self._notes
        if not notes:
            self._begun = now
        elif len(notes) >= _MOST_NOTES or now - self._begun > _OLDEST_NOTE:
            self._draw(self.noted_at)
            self._begun = now
        notes.append(note)
        self.noted_at = now

    def read(self, place: int, now: float) -> Reading | None:
        """Return what is known of those that reach the bin of that place; None if nothing is."""
        if self._notes and self._is_due(now):
            self._draw(self.noted_at)
        elif not self._reached:
            return None
        if now - self._aged_at >= _STEP:
            self._age(now)
        first = place // _STEPS
        reading = self._readings.get(first)
        if reading is None:
            reading = self._readings[first] = self._measure(first)
        return reading

    def _is_due(self, now: float) -> bool:
        """Return whether the notes are to be put into the curve before it is read."""
        count = len(self._notes)
        if not self._reached:
            return count >= _SEVERAL
        return count >= _AT_ONCE or now - self._begun >= (_DELAY if count > _FEW else _LONG_DELAY)

    def _measure(self, first: int) -> Reading:
        """Follow the curve from that bin on, to where it falls below `STANDING`, and to its end."""
        survival, remain, gone, cliff = 1.0, 1.0, 0.0, None
        for i in sorted(self._leaves):
            leaves, reached = self._leaves[i], self._reached[i]
            if i < first or i > self._top or reached < _SEVERAL:
                continue
            before, gone = survival, gone + leaves.count
            survival *= max(1 - leaves.count / reached, 0.0)
            remain *= leaves.beyond / (leaves.beyond + leaves.count)
            # As if of `reached / before` callers so many were still there (Peto, 1977): far out,
            # where few have come, one that leaves is no evidence of a cliff.
            deviation = sqrt(STANDING * (1 - STANDING) * before / reached)
            if cliff is None and gone >= _SEVERAL and STANDING - survival > _SIGMAS * deviation:
                cliff = _EDGES[i]
            if cliff is not None and remain < _HARDLY_ANY:
                return Reading(cliff, cliff, _EDGES[i])
        if cliff is not None:
            return Reading(cliff, cliff)
        return Reading(None, _EDGES[self._top] if self._top >= first else 0.0)

    def _draw(self, at: float) -> None:
        """Put the notes into the curve."""
        if not self._reached:
            self._reached, self._aged_at = [0.0] * _BINS, at
        elif at - self._aged_at >= _STEP:
            self._age(at)
        gone, stays = dict[int, list[int]](), list[int]()
        for note in self._notes:
            if note < 0:
                gone.setdefault(~note // _STEPS, []).append(~note % _STEPS)
            else:
                stays.append(note)
        self.left += len(self._notes) - len(stays)
        self.stayed += len(stays)
        self._notes.clear()
        for i, steps in gone.items():
            if i not in self._leaves:
                self._leaves[i] = _Leaves(at, self._reached[i + 1] if i + 1 < _BINS else 0.0)
            self._leaves[i].add(steps)
        self._add(gone, stays)
        for i in gone:
            self._leaves[i].last, self._leaves[i].since = at, 0.0
        self._find_top()

    def _add(self, gone: Mapping[int, Sequence[int]], stays: Sequence[int]) -> None:
        """Add those who have left, by their bins, and those who stayed."""
        # Those that reach a bin are all that end beyond it, those that leave in it, and those that
        # stay in it longer than others. Each ends at its bin or at the one before; 0 is before all.
        ends, inside = [0.0] * (_BINS + 1), dict.fromkeys(self._leaves, 0.0)
        for i, steps in gone.items():
            ends[i + 1] = inside[i] = len(steps)
        for place in stays:
            i, step = divmod(place, _STEPS)
            leaves = self._leaves.get(i)
            if leaves is None:
                longer = _HALF
            else:
                longer = min(max(step - leaves.step + _HALF, 0.0), 1.0)
                inside[i] += longer
            ends[i + 1] += longer
            ends[i] += 1 - longer
        came = list(accumulate(reversed(ends)))[-2::-1]
        totals = list(map(add, self._reached, came))
        self._reached = [total if total < _MOST else _MOST for total in totals]
        for i, leaves in list(self._leaves.items()):
            beyond = came[i] - inside[i]
            leaves.beyond += beyond
            leaves.since += beyond
            left = len(gone.get(i, ()))
            # Less than half a caller: answered in the bin, and hardly later than others left.
            leaves.run = 0 if came[i] - left >= _HALF else leaves.run + left
            if totals[i] > _MOST:
                leaves.scale(_MOST / totals[i])
            if leaves.run >= _RUN:
                self._reached[i], leaves.beyond = leaves.count, 0.0
            if i not in gone and leaves.since * leaves.count >= _MISSED * self._reached[i]:
                self._forget(i)

    def _age(self, now: float) -> None:
        """Let the counts decay."""
        kept = 0.5 ** (max(now - self._aged_at, 0.0) / _HALF_LIFE)
        self._aged_at = now
        self._reached = [count * kept for count in self._reached]
        for i, leaves in list(self._leaves.items()):
            leaves.scale(kept)
            if now - leaves.last > _MEMORY:
                self._forget(i)
        self._find_top()

    def _forget(self, i: int) -> None:
        """Forget those that left in a bin: as if they had never been there."""
        self._reached[i] = max(self._reached[i] - self._leaves.pop(i).count, 0.0)

    def _find_top(self) -> None:
        self._readings.clear()
        reached = self._reached
        self._top = next((i for i in range(_BINS - 1, -1, -1) if reached[i] >= _SEVERAL), -1)
