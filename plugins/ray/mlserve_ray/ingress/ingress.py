"""One address in front of several servers: Envoy, and what looks after it.

    ingress = Ingress(folder, Listen("0.0.0.0", 8500, 8501), IngressOptions(settings))
    ingress.start()                      # a thread of its own starts Envoy, and again if it dies
    ingress.set_endpoints(endpoints)     # as often as they change
    ingress.drain(); ingress.stop()

Requests pass through Envoy alone: nothing here is in their way.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlserve.credentials import check_files
from mlserve.errors import MlserveError, Unavailable, UsageError
from mlserve.system import usable_cpus
from mlserve_ray.ingress.admin import Admin
from mlserve_ray.ingress.bootstrap import PROTOCOLS, bootstrap
from mlserve_ray.ingress.counting import read_counters, read_look
from mlserve_ray.ingress.envoy import CONFIG, Envoy
from mlserve_ray.ingress.files import ConfigFiles
from mlserve_ray.ingress.hedging import Hedging
from mlserve_ray.ingress.options import (
    MOST_WORKERS,
    Endpoint,
    EndpointState,
    IngressCounters,
    IngressOptions,
    Listen,
)
from mlserve_ray.ingress.routes import Routing
from mlserve_ray.ingress.silent import Silence

_log = logging.getLogger(__name__)

_START_SECONDS = 20.0
_LOOK_SECONDS = 0.25
_COUNT_SECONDS = 1.0
"""Seconds between two looks at the counters: an Envoy that dies takes along what is newer."""
_PAUSE = 0.02
_AGAIN_SECONDS = 1.0
"""Seconds between two starts of an Envoy that does not stay."""
_QUIET_SECONDS = 0.5


class Ingress:
    """One address in front of the replicas. `folder` is its own, and is made if it is not there.

    Methods may be called from any thread, in any order after `start`.
    """

    def __init__(self, folder: Path, listen: Listen, options: IngressOptions) -> None:
        self._folder = folder
        self._options = options
        self.listen = listen
        """Where it listens, with the ports that it has since `start`."""
        self._lock = threading.RLock()
        self._files: ConfigFiles | None = None
        self._endpoints: tuple[Endpoint, ...] = ()
        self._routing = Routing(options.settings.max_request_bytes, options.is_idempotent)
        self._admin = Admin(folder)
        self._envoy: Envoy | None = None
        self._hedging = Hedging(options.hedge) if options.hedge is not None else None
        self._silence = Silence()
        self._before = IngressCounters()
        """What earlier Envoys of this ingress counted."""
        self._counted = IngressCounters()
        self._counted_at = 0.0
        self._is_draining = False
        self._ending = threading.Event()
        self._started = threading.Event()
        self._failure: MlserveError | None = None
        self._thread = threading.Thread(target=self._run, name="ingress", daemon=True)

    def start(self) -> None:
        """Start Envoy, and return once it listens.

        Raises UsageError for files of the settings that cannot be used, PluginError without Envoy,
        Unavailable if a port is taken or it does not start.
        """
        check_files(self._options.settings)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = ConfigFiles(self._folder)
        self._files.set_local(0)
        self._files.set_replicas(())
        self._files.set_routing(self._routing)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Name the replicas, in place of those named before. Requests under way go on."""
        with self._lock:
            self._endpoints = tuple(endpoints)
            files = self._started_files()
            ready = sum(one.state == EndpointState.READY for one in endpoints)
            # A request is asked again only of those that are named already.
            if ready < self._routing.replicas:
                self._route(replicas=ready)
            files.set_replicas(self._endpoints)
            self._route(replicas=ready)

    def set_idempotent(self, is_idempotent: bool) -> None:
        """Say whether requests may be asked twice, as another version may differ in that."""
        with self._lock:
            self._route(is_idempotent=is_idempotent)

    def set_local(self, address: int | str) -> None:
        """Say who answers /mlserve/replicas and /metrics: a port of 127.0.0.1, or a UNIX socket."""
        with self._lock:
            self._started_files().set_local(address)

    def counters(self) -> IngressCounters:
        """Return what has been counted so far."""
        with self._lock:
            self._count()
            return self._before + self._counted

    def poll(self) -> bool:
        """Return whether Envoy runs. If it has died, it is being started again."""
        with self._lock:
            return self._envoy is not None and self._envoy.is_running

    def drain(self, seconds: float | None = None) -> bool:
        """Refuse new requests, wait for those under way, and close the ports.

        Connections that stay open are told to close with their next answer. Returns False if some
        requests have not ended in time: the settings' drain timeout, unless `seconds` are given.
        """
        allowed = self._options.settings.drain_timeout if seconds is None else seconds
        give_up = time.monotonic() + allowed
        try:
            with self._lock:
                self._is_draining = True
                self._route(is_stopping=True)
                self._admin.post("/healthcheck/fail")
            is_done = self._wait_quiet(give_up)
            self._admin.post("/drain_listeners")
            return self._wait_quiet(max(give_up, time.monotonic() + 2 * _QUIET_SECONDS)) and is_done
        except Unavailable:
            return True  # Envoy is gone, and with it what it did

    def _wait_quiet(self, give_up: float) -> bool:
        """Wait until no request has been under way for a moment; return False if that is never."""
        quiet_since: float | None = None
        while (now := time.monotonic()) < give_up:
            if self.active():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= _QUIET_SECONDS:
                return True
            self._ending.wait(_PAUSE)
        return False

    def active(self) -> int:
        """Return the number of requests under way. Raises Unavailable."""
        return sum(self._admin.counters(r"^http\.(grpc|rest)\.downstream_rq_active$").values())

    def stop(self) -> None:
        """End Envoy."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _started_files(self) -> ConfigFiles:
        if self._files is None:
            raise RuntimeError("the ingress has not been started")
        return self._files

    def _route(self, **changes: object) -> None:
        routing = replace(self._routing, **changes)  # type: ignore[arg-type]
        if routing != self._routing:
            self._routing = routing
            self._started_files().set_routing(routing)

    def _run(self) -> None:
        """Start Envoy and look after it; in a thread of its own, with which Envoy ends."""
        try:
            self._start_envoy()
        except MlserveError as error:
            self._failure = error
            return
        except OSError as error:
            self._failure = _not_started(error)
            return
        finally:
            self._started.set()
        while not self._ending.wait(_LOOK_SECONDS):
            try:
                self._look_after()
            except Unavailable as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001 - Envoy would end with this thread
                _log.exception("the ingress was not looked after, and is again in a moment")
                self._ending.wait(_AGAIN_SECONDS)
        if self._envoy is not None:
            self._envoy.stop()

    def _look_after(self) -> None:
        envoy = self._envoy
        if envoy is None or not envoy.is_running:
            if not self._is_draining:
                self._restart(envoy)
            return
        with self._lock:
            replicas = [one for name in PROTOCOLS for one in self._admin.replicas(name)]
            ready = sum(one.is_ready for one in replicas) // len(PROTOCOLS)
            self._route(replicas=ready)
            if ready and self._routing.is_idempotent:  # else nobody else may answer them
                self._silence.end(envoy.process.pid, replicas)
            if time.monotonic() - self._counted_at >= _COUNT_SECONDS or self._hedging is not None:
                self._count()
            if self._hedging is not None and self._routing.is_idempotent:
                look = read_look(self._admin, self._counted)
                active = sum(one.active for one in replicas)
                self._route(patience=self._hedging.patience(look, active, ready))

    def _restart(self, envoy: Envoy | None) -> None:
        with self._lock:
            self._before, self._counted = self._before + self._counted, IngressCounters()
        if envoy is not None:
            _log.error("%s", envoy.failure())
        self._envoy = None
        try:
            self._start_envoy()
        except MlserveError as error:
            self._failure = error
            _log.error("the ingress cannot be started again: %s", error)
            self._ending.wait(_AGAIN_SECONDS)
        else:
            self._failure = None
            _log.warning("the ingress (Envoy) has been started again")

    def _start_envoy(self) -> None:
        files = self._started_files()
        address = replace(self.listen, host=_address_of(self.listen.host))
        files.write(CONFIG, bootstrap(address, self._options))
        workers = self._options.workers or min(usable_cpus(), MOST_WORKERS)
        envoy = Envoy(self._folder, workers)
        give_up = time.monotonic() + _START_SECONDS
        while not self._listens():
            if not envoy.is_running:
                raise envoy.failure()
            if time.monotonic() > give_up or self._ending.wait(_PAUSE):
                envoy.stop()
                raise Unavailable(f"the ingress (Envoy) did not start in {_START_SECONDS:g} s")
        self._envoy = envoy

    def _listens(self) -> bool:
        try:
            ports = self._admin.ports() if self._admin.is_ready() else {}
        except Unavailable:
            return False
        if len(ports) < len(PROTOCOLS):
            return False
        self.listen = replace(self.listen, grpc_port=ports["grpc"], rest_port=ports["rest"])
        return True

    def _count(self) -> None:
        try:
            self._counted = read_counters(self._admin)
        except Unavailable:
            return  # what was read last stands, until Envoy is back
        self._counted_at = time.monotonic()


def _not_started(error: OSError) -> Unavailable:
    return Unavailable(
        f"the ingress (Envoy) cannot be started: {error}",
        hint="see whether this machine has room for a process, and for files in its folder of "
        "temporary files (TMPDIR)",
    )


def _address_of(host: str) -> str:
    """Return a host's IP address. Raises UsageError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f"{host} (--host) is no address of this machine: {error.strerror or error}",
            hint="give an IP address: 0.0.0.0 is all of them",
        ) from error
    return str(found[0][4][0])
