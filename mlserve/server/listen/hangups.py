"""Hear of clients that hang up while nothing is read from them.

A connection whose reading is paused, because its client has sent more than may wait, has its end
behind that data: the event loop does not see it before all of it is read. The kernel tells of it
apart from data (EPOLLRDHUP), and one epoll for all such connections, which the loop watches as it
does a socket, tells it at once. Only an end that has not arrived cannot be heard: the client's own
system keeps it behind data for which there is no room here.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress


class Hangups:
    """Watches connections for the end of what their clients send, on the event loop's thread.

    Where the system has no epoll, nothing is watched: the end is seen once the data before it is
    read.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, on_hangup: Callable[[], None]) -> None:
        """Call `on_hangup` once when that connection's client hangs up, or has done so."""
        if not hasattr(select, "epoll") or descriptor < 0:
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._on_events)
        with suppress(FileExistsError):
            self._epoll.register(descriptor, select.EPOLLRDHUP)
        self._watched[descriptor] = on_hangup

    def forget(self, descriptor: int) -> None:
        """Watch that connection no longer, if it was watched."""
        if self._watched.pop(descriptor, None) is not None and self._epoll is not None:
            with suppress(OSError):  # it is closed already, and with that forgotten
                self._epoll.unregister(descriptor)
            if not self._watched:  # it is rare that one is: no file stays open for that
                self.close()

    def close(self) -> None:
        """Watch nothing any more."""
        self._watched.clear()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _on_events(self) -> None:
        if self._epoll is None:
            return
        for descriptor, _ in self._epoll.poll(0):
            on_hangup = self._watched.get(descriptor)
            self.forget(descriptor)
            if on_hangup is not None:
                on_hangup()
