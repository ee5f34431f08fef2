"""When the command began: the moment that its deadline counts from."""

from __future__ import annotations

import time

_process_start: list[float] = []


def mark_process_start() -> None:
    """Notes that this process began now; called before anything else is imported."""
    _process_start.append(time.monotonic())


def command_start() -> float:
    """The monotonic time in seconds at which the running command began.

    For the first command of a process that is the process's own start; a command that is called
    later in the same process, as a test does, began just now.
    """
    return _process_start.pop() if _process_start else time.monotonic()
