"""Takes the connections of the HTTP port in, a few at a time, and waits where no more can be had.

asyncio's own loop takes 2,048 at once before it makes the first one known, so that a limit on
connections comes too late where the system allows few open files. Then it logs an error for each
that it cannot take, without end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

_log = logging.getLogger(__name__)

BATCH = 16
"""Connections that are taken in before the event loop does something else."""
_PAUSE = 0.1
"""Seconds until it tries again where the system had no room for one more."""
_PATIENCE = 1.0
"""Seconds that a TLS handshake may last while others wait to begin theirs."""


class Acceptor:
    """Gives each connection of a listener a protocol that `make` makes.

    At most `most` TLS handshakes run at a time; where that many do, those that have lasted longest
    give way. It stands in for the `asyncio.Server` that uvicorn closes at the end.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        most: int,
        tls: ssl.SSLContext | None,
        handshake_timeout: float | None,
    ) -> None:
        self._listener = listener
        self._make = make
        self._most = most
        self._tls = tls
        self._handshake_timeout = handshake_timeout if tls is not None else None
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Takes no more connections; those that were taken stay."""
        self._is_closed = True
        self._pause(None)

    async def wait_closed(self) -> None:
        """Returns once every connection that was taken has been made known."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _accept(self) -> None:
        for _ in range(BATCH):
            if len(self._opening) >= self._most:
                self._pause(_PATIENCE)
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("no connection can be taken for now: %s", error.strerror)
                self._pause(_PAUSE)
                return
            task = self._loop.create_task(self._open(connection))
            self._opening[task] = self._loop.time()
            task.add_done_callback(self._note_opened)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_timeout,
            )
        except OSError as error:  # a handshake that failed or took too long, as with any stranger
            _log.debug("a connection was not made: %s", error)

    def _note_opened(self, task: asyncio.Task[None]) -> None:
        is_full = len(self._opening) >= self._most
        del self._opening[task]
        if is_full:
            self._resume()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection could not be served", exc_info=error)

    def _pause(self, seconds: float | None) -> None:
        """Takes no connection for so long, or for ever; they wait in the kernel's queue."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed:
            return
        if len(self._opening) >= self._most:
            late = self._loop.time() - _PATIENCE
            for task in [task for task, since in self._opening.items() if since <= late]:
                task.cancel()
        self._loop.add_reader(self._listener, self._accept)
