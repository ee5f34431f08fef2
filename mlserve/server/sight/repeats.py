"""Lines of the log that come again and again: a few are written, the others are counted.

What a stranger does to a socket, or one fault of a model, can make the same line a thousand times a
second: that must not fill the disk. `request_log` does the same for requests, by their reason.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

WINDOW = 10.0
"""Seconds in which lines that are alike are held together."""
LINES_ALIKE = 10
"""How many lines with the same words are written in a window."""
LINES_OF_A_PLACE = 100
"""How many lines of one place in the code are written in a window, whatever their words."""
_MOST_CHARACTERS = 200
_LIMITED_ELSEWHERE = "mlserve.request"

Place = tuple[str, str, int]
"""A logger's name, and the file and line that log."""


class Repeats:
    """Tells which records get a line of their own. Not safe for threads: the caller has a lock."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._ends_at = 0.0
        self._alike: Counter[tuple[Place, str]] = Counter()
        self._places: Counter[Place] = Counter()
        self._held: dict[Place, tuple[int, logging.LogRecord]] = {}

    def takes(self, record: logging.LogRecord) -> bool:
        """Whether the record gets a line; it is counted if not."""
        if record.name == _LIMITED_ELSEWHERE:
            return True
        if not self._places:
            self._ends_at = time.monotonic() + self._window
        place = (record.name, record.pathname, record.lineno)
        words = (place, _words(record))
        has_room = self._places[place] < LINES_OF_A_PLACE and self._alike[words] < LINES_ALIKE
        if has_room:
            self._places[place] += 1
            self._alike[words] += 1
        else:
            self._held[place] = (self._held.get(place, (0, record))[0] + 1, record)
        return has_room

    @property
    def seconds_left(self) -> float | None:
        """Until `ended` has something to tell; None when nothing was held."""
        return max(0.0, self._ends_at - time.monotonic()) if self._held else None

    def ended(self) -> list[logging.LogRecord]:
        """Once the window is over: a record for each place of which lines were held."""
        if not self._places or time.monotonic() < self._ends_at:
            return []
        return self.close()

    def close(self) -> list[logging.LogRecord]:
        """What `ended` tells, at once."""
        told = [self._count(count, last) for count, last in self._held.values()]
        self._alike.clear()
        self._places.clear()
        self._held.clear()
        return told

    def _count(self, count: int, last: logging.LogRecord) -> logging.LogRecord:
        message = f"{count} more lines like this in the last {self._window:g} s: {_words(last)}"
        return logging.LogRecord(
            last.name, last.levelno, last.pathname, last.lineno, message, None, None
        )


def _words(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # its arguments do not fit; the line itself will say so
        text = str(record.msg)
    return text.partition("\n")[0][:_MOST_CHARACTERS]
