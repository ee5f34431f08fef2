"""How long a rung takes for so many rows, as measured on this server under its load.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from typing import NamedTuple

_WEIGHT = 1 / 8
_MARGIN = 2.0
"""Mean deviations to spare: a climb that ends late helps nobody."""
_WAY_BACK = 0.005
"""Seconds to write the answer and to send it."""
_MEMORY = 10.0
"""Seconds after which a load is taken to be over, as climbs that are not tried are not measured."""


class _Seconds(NamedTuple):
    mean: float
    deviation: float
    fastest: float
    seen: float


class RunTimes:
    """The times of one rung, by rows in powers of two. Threads may use it at the same time.

    Two that note a time at once lose one of the two, which changes little.
    """

    def __init__(self) -> None:
        self._by_size: dict[int, _Seconds] = {}

    def note(self, rows: int, seconds: float, now: float) -> None:
        """Note that a run of so many rows took so long."""
        size = _size(rows)
        before = self._by_size.get(size)
        if before is None:
            self._by_size[size] = _Seconds(seconds, 0.0, seconds, now)
            return
        error = seconds - before.mean
        self._by_size[size] = _Seconds(
            before.mean + _WEIGHT * error,
            before.deviation + _WEIGHT * (abs(error) - before.deviation),
            min(before.fastest, seconds),
            now,
        )

    def needed(self, rows: int, now: float) -> float:
        """Return the seconds that a run and its answer need; 0 before the first run.

        Rows of a size that has not been measured take their share of the nearest size that has.
        """
        if not self._by_size:
            return 0.0
        size = _size(rows)
        nearest = min(self._by_size.copy(), key=lambda known: abs(known - size))
        found = self._by_size[nearest]
        usual = found.mean + _MARGIN * found.deviation
        seconds = usual if now - found.seen <= _MEMORY else found.fastest
        return max(1.0, 2.0 ** (size - nearest)) * seconds + _WAY_BACK


def _size(rows: int) -> int:
    return max(0, rows - 1).bit_length()
