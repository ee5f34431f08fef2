"""Ctrl-C that arrives while Python runs a finalizer: it must end the command all the same."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

_AGAIN = 0.01
"""Seconds after which a lost interrupt is raised again: the finalizer has ended by then."""


def keep_interrupts() -> None:
    """Raise KeyboardInterrupt again when a finalizer swallowed it. Main thread only.

    Python cannot pass on what is raised in a `__del__` or in the callback of a weak reference. It
    prints "Exception ignored in" and goes on, so a Ctrl-C that arrives at that moment is lost. See
    `sys.unraisablehook`.
    """
    tell = sys.unraisablehook

    def on_unraisable(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)  # raised here, it would be lost again
        else:
            tell(unraisable)

    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = on_unraisable


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
