"""The driver: the process that speaks to Ray, beside the front, which does not.

Ray ends a process whose connection to the cluster is lost. So it has one of its own, which the
front starts again: while the cluster's head is away, clients are served by the replicas as before.
The front calls the methods of `driver.RayDriver` over a socket; many calls run at the same time.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlserve import errors
from mlserve.cluster_options import ClusterOptions
from mlserve.errors import MlserveError, Unavailable, bounded
from mlserve_ray.cluster import QUIET
from mlserve_ray.parent_death import dying_with_us
from mlserve_ray.replica import ReplicaPlan

Setup = tuple[ReplicaPlan, ClusterOptions, float]
"""The arguments of `RayDriver`."""
_GONE = "the driver of Ray has ended"


class DriverProcess:
    """The process, as the front sees it. Made on a thread that lives as long as the front."""

    def __init__(self, setup: Setup, log: Path) -> None:
        """Start the process; what Ray prints goes to `log`. Raises OSError."""
        self._log = log
        ours, theirs = socket.socketpair()
        with theirs, log.open("wb") as output:
            argv = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                dying_with_us(argv, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **QUIET},
                start_new_session=True,  # it has to outlive the SIGTERM of `mlserve down`
            )
        self._connection = Connection(ours.detach())
        self._numbers = itertools.count()
        self._calls: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._connection.send(setup)
        threading.Thread(target=self._read, daemon=True, name="mlserve-driver").start()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Return the last line that it printed, for a message."""
        lines = self._log.read_text(errors="replace").split("\n")
        return bounded(next((line for line in reversed(lines) if line.strip()), "no reason said"))

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what that method of `RayDriver` returns, and raise what it raises.

        Errors that are not of mlserve become Unavailable, as does the end of the process.
        """
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = future
            try:
                self._connection.send((number, method, arguments))
            except OSError as error:
                raise Unavailable(_GONE, hint="see mlserve logs") from error
        return future.result()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, value, error = self._connection.recv()
                future = self._calls.pop(number)
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(_raised(*error))
        with self._lock:
            waiting = list(self._calls.values())
            self._calls.clear()
        for future in waiting:
            future.set_exception(Unavailable(_GONE, hint="see mlserve logs"))


def _raised(kind: str, message: str, hint: str | None) -> MlserveError:
    made: type[MlserveError] = getattr(errors, kind, Unavailable)
    return made(message, hint=hint)


def _said(error: Exception) -> tuple[str, str, str | None]:
    if isinstance(error, MlserveError):
        return type(error).__name__, error.message, error.hint
    return Unavailable.__name__, bounded(f"{type(error).__name__}: {error}"), None


def main(arguments: Sequence[str]) -> None:
    """Answer the front's calls until it is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the front says when it is time
    logging.getLogger("ray").setLevel(logging.ERROR)
    from mlserve_ray.driver import RayDriver  # Ray reads the environment when it is imported

    connection = Connection(int(arguments[0]))
    driver = RayDriver(*connection.recv())
    lock = threading.Lock()

    def answer(number: int, method: str, given: tuple[Any, ...]) -> None:
        reply: tuple[int, Any, tuple[str, str, str | None] | None]
        try:
            reply = (number, getattr(driver, method)(*given), None)
        except Exception as error:  # noqa: BLE001 - the boundary: the front gets its words
            reply = (number, None, _said(error))
        with lock, suppress(OSError):
            connection.send(reply)

    with suppress(EOFError, OSError):
        while True:
            call = connection.recv()
            if call[1] == "connect":
                answer(*call)  # Ray wants to be started on the main thread
            else:
                threading.Thread(target=answer, args=call, daemon=True).start()
    os._exit(0)  # Ray's own end would wait for a cluster that may be gone


if __name__ == "__main__":
    main(sys.argv[1:])
