"""What goes wrong in the middle of a load, and what it leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
from served import Server

from mlserve.system import usable_cpus

LASTS = {"stop": 3.0, "neighbour": 4.0, "slower": 4.0, "reload": 2.0}
"""Seconds of each trigger; the reload is over once the server has noticed and loaded."""
_BUSY = "while True: pass"


@contextmanager
def trigger(server: Server, model: str, shock: str, start: float) -> Iterator[None]:
    """Pull the trigger at the moment `start` of the monotonic clock, on a thread of its own.

    A model that turns slower is a matter of the requests: nothing is done then.
    """
    actions: dict[str, Callable[[], None]] = {
        "stop": lambda: _stop(server, LASTS["stop"]),
        "neighbour": lambda: _neighbour(LASTS["neighbour"]),
        "reload": lambda: server.installation.publish_again(model),
        "slower": lambda: None,
    }

    def pull() -> None:
        time.sleep(max(0.0, start - time.monotonic()))
        actions[shock]()

    thread = threading.Thread(target=pull)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _stop(server: Server, seconds: float) -> None:
    """Freeze all processes of the server, as a host does that is moved or swaps."""
    stopped = server.processes
    try:
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def _neighbour(seconds: float) -> None:
    """Take as much of every core as the scheduler gives to one process of others."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(usable_cpus())]
    time.sleep(seconds)
    for process in busy:
        process.kill()
        process.wait()
