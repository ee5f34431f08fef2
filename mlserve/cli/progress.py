"""A progress bar of one line on stderr, shown on a terminal only.

It is cleared before anything else is printed, so that it never mixes with data on the same
terminal; and it costs no import.
"""

from __future__ import annotations

import shutil
import sys

from mlserve.cli.output import is_interactive
from mlserve.client.refusals import readable

_WIDTH = 20
_CLEAR = "\r\x1b[K"


class StatusLine:
    """A line that the next one takes the place of."""

    def __init__(self) -> None:
        self._is_shown = is_interactive()

    def show(self, text: str) -> None:
        """Shows that text, cut to the width of the terminal."""
        self._write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """Takes the line away."""
        self._write(_CLEAR)

    def _write(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(text)
            sys.stderr.flush()


class ProgressLine(StatusLine):
    """How many of `total` are done, and which one runs; nothing is shown for a total of 0."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self._is_shown = self._is_shown and total > 0

    def draw(self, done: int, name: str) -> None:
        """Shows that `done` are done and `name` runs."""
        filled = _WIDTH * done // self._total if self._total else 0
        bar = "#" * filled + "." * (_WIDTH - filled)
        self.show(f"[{bar}] {done}/{self._total} {readable(name)}")
