"""One of the Envoys behind the address: started again when it ends, its counts kept."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from mlserve.errors import MlserveError, Unavailable
from mlserve_ray.ingress.admin import Admin
from mlserve_ray.ingress.bootstrap import PROTOCOLS
from mlserve_ray.ingress.counting import read_counters
from mlserve_ray.ingress.envoy import Envoy
from mlserve_ray.ingress.options import IngressCounters

_log = logging.getLogger(__name__)

_START_SECONDS = 20.0
_AGAIN_SECONDS = 1.0
"""Seconds between two starts of an Envoy that does not stay."""


class KeptEnvoy:
    """An Envoy whose configuration is `config` in `folder`. `number` tells it from the others.

    `start`, `has_begun`, `keep` and `stop` are for one thread, with which the process ends.
    """

    def __init__(self, folder: Path, number: int, workers: int) -> None:
        self.admin_socket = f"admin-{number}.sock"
        self.config = f"envoy-{number}.json"
        self.admin = Admin(folder, self.admin_socket)
        self._folder, self._number, self._workers = folder, number, workers
        self._envoy: Envoy | None = None
        self._listens = False
        self._give_up = 0.0
        self._again_at = 0.0
        self._lock = threading.Lock()
        self._before = IngressCounters()
        """What earlier processes counted."""
        self._counted = IngressCounters()

    @property
    def pid(self) -> int | None:
        """The process that takes connections; None while there is none."""
        envoy = self._envoy
        return envoy.process.pid if envoy and self._listens and envoy.is_running else None

    def start(self) -> None:
        """Start a process. Raises PluginError without Envoy, OSError if there is no room."""
        self._envoy, self._listens = Envoy(self._folder, self.config, self._workers), False
        self._give_up = time.monotonic() + _START_SECONDS

    def has_begun(self) -> bool:
        """Return whether the process that was started takes connections.

        Raises Unavailable if it has ended, or takes too long.
        """
        envoy = self._envoy
        if envoy is None or not envoy.is_running:
            raise Unavailable("the ingress (Envoy) has ended") if envoy is None else envoy.failure()
        if not self._listens:
            try:
                ports = self.admin.ports() if self.admin.is_ready() else {}
            except Unavailable:
                ports = {}  # it has not come so far
            self._listens = len(ports) == len(PROTOCOLS)
            if not self._listens and time.monotonic() > self._give_up:
                self.stop()
                raise Unavailable(f"the ingress (Envoy) did not start in {_START_SECONDS:g} s")
        return self._listens

    def keep(self) -> None:
        """Start it again if it has ended; say so in the log."""
        if self.pid is not None:
            return
        try:
            if self._envoy is not None and self.has_begun():
                _log.warning("Envoy %d of the ingress has been started again", self._number)
        except Unavailable as error:
            _log.error("Envoy %d of the ingress: %s", self._number, error)
            self._end()
        if self._envoy is None and time.monotonic() >= self._again_at:
            try:
                self.start()
            except (MlserveError, OSError) as error:
                _log.error("Envoy %d of the ingress cannot be started: %s", self._number, error)
                self._again_at = time.monotonic() + _AGAIN_SECONDS

    def counters(self) -> IngressCounters:
        """Return what has been counted so far, by earlier processes, too."""
        with self._lock:
            if self.pid is not None:
                try:
                    self._counted = read_counters(self.admin)
                except Unavailable as error:
                    # What was read last stands, until Envoy is back.
                    _log.debug("not counted: %s", error)
            return self._before + self._counted

    def stop(self) -> None:
        """End the process."""
        if self._envoy is not None:
            self._envoy.stop()

    def _end(self) -> None:
        """Forget a process that has ended. The next one waits a moment if this one did not stay."""
        with self._lock:
            self._before, self._counted = self._before + self._counted, IngressCounters()
        if not self._listens:
            self._again_at = time.monotonic() + _AGAIN_SECONDS
        self._envoy, self._listens = None, False
