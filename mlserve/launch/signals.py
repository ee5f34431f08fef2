"""Ctrl-C and SIGTERM while a server starts or stops: deferred where a process could be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """SIGINT and SIGTERM as KeyboardInterrupt, deferred inside `held`."""

    def __init__(self) -> None:
        self._are_held = False
        self._is_once = False
        self._came = False

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[Interrupts]:
        """Take over the two signals, and restore them at the end. Main thread only."""
        interrupts = cls()
        if threading.current_thread() is not threading.main_thread():
            yield interrupts
            return
        before = {number: signal.signal(number, interrupts._on_signal) for number in _SIGNALS}
        try:
            yield interrupts
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    @contextmanager
    def held(self, *, once: bool = False) -> Iterator[None]:
        """Let the block run to its end; a signal received meanwhile is raised afterwards.

        With `once` a second one is raised at once, for a block that may never end.
        """
        self._are_held, self._is_once = True, once
        try:
            yield
        finally:
            self._are_held = False
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal arrived while they were held."""
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._are_held and not (self._is_once and self._came):
            self._came = True
        else:
            raise KeyboardInterrupt
