"""How long callers of one kind wait: a survival curve, from those who left and those who stayed.

The curve is Kaplan and Meier's (1958), as a life table: waits are counted in bins about 10 % wide,
and of those that reach a bin, a share leaves in it. A caller that was answered in a bin is no
evidence beyond it, and counts as half a caller within it.

Three things make old evidence give way to new. All counts halve every minute. A bin remembers no
more than about the last 128 that reached it, so that a change shows after a few dozen. And the
leaves of a bin are forgotten altogether when nobody has left in it for 90 s, or when so many have
stood it since that some must have left if callers were still the same. Without that, a server that
refuses early, and so sees nobody leave any more, would never learn that its callers have changed.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from operator import add
from typing import NamedTuple

STANDING = 0.8
"""The share of callers that are to stand a wait."""
_PER_DOUBLING = 7
_BINS = 117
_BIN_OF_A_SECOND = 70.4
"""In sevenths of a doubling. So timeouts in round numbers of seconds lie inside their bins, not on
an edge: waits are seen a few per cent too short or too long."""
_EDGES = [0.0, *(2 ** ((i - _BIN_OF_A_SECOND) / _PER_DOUBLING) for i in range(1, _BINS))]
"""Where each bin begins, in seconds: from 1 ms to 92 s."""
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
_AT_ONCE = 32
"""Notes that are put into the curve at once, when it is asked for; fewer, after ..."""
_DELAY = 0.1
"""... these seconds, and ..."""
_FEW = 3
_LONG_DELAY = 1.0
"""... as few as these after so many."""
_MOST_NOTES = 64
_OLDEST_NOTE = 5.0
_STEP = 5.0
"""Seconds between two steps of the decay."""


def bin_of(seconds: float) -> int:
    """Return the bin that such a wait falls into."""
    return max(bisect_right(_EDGES, seconds) - 1, 0)


class Reading(NamedTuple):
    """What a curve says of callers that wait at least some time.

    At least `STANDING` of them wait `cliff` seconds, and not much longer; None if that has not been
    seen. Several were seen to wait `stood` seconds.
    """

    cliff: float | None
    stood: float


@dataclass(slots=True)
class _Leaves:
    """Those who left in one bin: how many, when the last of them, and how many came so far since.

    All but the time are decayed counts.
    """

    count: float
    last: float
    since: float = 0.0


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
        """The bins of waits that are not in the curve yet; inverted for those who left."""
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
        """Take note of a wait: its bin if the caller stayed, `~bin` if it left."""
        notes = self._notes
        if not notes:
            self._begun = now
        elif len(notes) >= _MOST_NOTES or now - self._begun > _OLDEST_NOTE:
            self._draw(self.noted_at)
            self._begun = now
        notes.append(note)
        self.noted_at = now

    def read(self, first: int, now: float) -> Reading | None:
        """Return what is known of those that reach that bin; None if nothing is."""
        if self._notes and self._is_due(now):
            self._draw(self.noted_at)
        elif not self._reached:
            return None
        if now - self._aged_at >= _STEP:
            self._age(now)
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
        """Follow the curve from that bin on, to where it falls below `STANDING`."""
        survival, gone = 1.0, 0.0
        for i in sorted(self._leaves):
            if i < first:
                continue
            if i > self._top:
                break
            leaves, reached = self._leaves[i].count, self._reached[i]
            before, gone = survival, gone + leaves
            survival *= max(1 - leaves / reached, 0.0)
            # As if of `reached / before` callers so many were still there (Peto, 1977): far out,
            # where few have come, one that leaves is no evidence of a cliff.
            deviation = sqrt(STANDING * (1 - STANDING) * before / reached)
            if gone >= _SEVERAL and STANDING - survival > _SIGMAS * deviation:
                return Reading(_EDGES[i], _EDGES[i])
        return Reading(None, _EDGES[self._top] if self._top >= first else 0.0)

    def _draw(self, at: float) -> None:
        """Put the notes into the curve."""
        if not self._reached:
            self._reached, self._aged_at = [0.0] * _BINS, at
        elif at - self._aged_at >= _STEP:
            self._age(at)
        # Those that reach a bin are all that end beyond it, those that leave in it, and half of
        # those that stay to it: so many end at each step down, for one place more than bins.
        ends, gone = [0.0] * (_BINS + 1), dict[int, int]()
        for note in self._notes:
            if note < 0:
                ends[-note] += 1
                gone[~note] = gone.get(~note, 0) + 1
            else:
                ends[note + 1] += 0.5
                ends[note] += 0.5
        left = sum(gone.values())
        self.left += left
        self.stayed += len(self._notes) - left
        self._notes.clear()
        came = list(accumulate(reversed(ends)))[-2::-1]
        totals = list(map(add, self._reached, came))
        self._reached = [total if total < _MOST else _MOST for total in totals]
        for i, count in gone.items():
            self._leaves.setdefault(i, _Leaves(0.0, at)).count += count
        for i in list(self._leaves):
            leaves, total = self._leaves[i], totals[i]
            if total > _MOST:
                leaves.count *= _MOST / total
            if i in gone:
                leaves.last, leaves.since = at, 0.0
                continue
            leaves.since += came[i]
            if leaves.since * leaves.count >= _MISSED * self._reached[i]:
                self._forget(i)
        self._find_top()

    def _age(self, now: float) -> None:
        """Let the counts decay."""
        kept = 0.5 ** (max(now - self._aged_at, 0.0) / _HALF_LIFE)
        self._aged_at = now
        self._reached = [count * kept for count in self._reached]
        for i, leaves in list(self._leaves.items()):
            leaves.count *= kept
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
