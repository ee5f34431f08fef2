"""Tell the service manager that started this process how it is: ready, reloading, stopping, alive.

systemd, podman and others name a datagram socket in `NOTIFY_SOCKET` and read lines of `KEY=value`
from it. Protocol: sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

_log = logging.getLogger(__name__)
_PATIENCE = 1.0
"""Seconds to wait while the service manager has no room for the message."""
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells the service manager; does nothing if there is none.

    `watchdog` is the time in seconds within which it wants to hear that the process is alive; None
    if it does not.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog if address else None

    @classmethod
    def taken(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Return the one that the environment names, and forget the variables.

        Programs that this process starts cannot speak in its name then.
        """
        address, usec, pid = (environ.pop(name, None) for name in _VARIABLES)
        is_ours = pid in (None, str(os.getpid()))
        seconds = int(usec) / 1e6 if usec and usec.isdecimal() and is_ours else 0.0
        return cls(address, seconds or None)

    @staticmethod
    def left_to_child(environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Return one that tells nothing, and let the program that this process starts tell."""
        environ.pop("WATCHDOG_PID", None)
        return Notifier()

    def ready(self, status: str) -> None:
        """Tell that the service is up, or that it has reloaded; `status` says it to people."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that it reads its configuration again; `ready` follows once it is in force."""
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the configuration again")

    def stopping(self, status: str) -> None:
        """Tell that it has begun to end."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Tell that it is not stuck."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is in the abstract namespace.
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.settimeout(_PATIENCE)
                to.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.warning(
                "the service manager at %s cannot be told %s: %s",
                self._address,
                lines[0],
                error.strerror or error,
            )
