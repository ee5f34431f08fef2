"""Start time of the command, from which its deadline counts."""

from __future__ import annotations

import time

_process_start: list[float] = []


def mark_process_start() -> None:
    """Record that this process starts now; called before anything else is imported."""
    _process_start.append(time.monotonic())


def command_start() -> float:
    """Return the monotonic time in seconds at which the running command began.

    For the first command of a process that is the start of the process; a later command of the same
    process, as in a test, begins when it is called.
    """
    return _process_start.pop() if _process_start else time.monotonic()
