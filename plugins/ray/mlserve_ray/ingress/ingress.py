"""One address in front of several servers: Envoy, and what looks after it.

    ingress = Ingress(folder, Listen("0.0.0.0", 8500, 8501), IngressOptions(settings))
    ingress.start()                      # a thread of its own starts Envoy, and again if it dies
    ingress.set_endpoints(endpoints)     # as often as they change
    ingress.drain(); ingress.stop()

Requests pass through Envoy alone: nothing here is in their way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlserve.credentials import check_files
from mlserve.errors import MlserveError, Unavailable
from mlserve.system import usable_cpus
from mlserve_ray.ingress.admin import Replica
from mlserve_ray.ingress.bootstrap import PROTOCOLS, bootstrap
from mlserve_ray.ingress.counting import read_look
from mlserve_ray.ingress.files import ConfigFiles
from mlserve_ray.ingress.hedging import Hedging
from mlserve_ray.ingress.held_ports import HeldPorts
from mlserve_ray.ingress.kept_envoy import KeptEnvoy
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

ENVOYS = 2
"""Several share the address, so that it is there while one that has died is started again."""
_ACTIVE = r"^http\.(grpc|rest)\.downstream_rq_active$"
_LOOK_SECONDS = 0.25
_COUNT_SECONDS = 1.0
"""Seconds between two looks at the counters: an Envoy that dies takes along what is newer."""
_PAUSE = 0.02
_AGAIN_SECONDS = 1.0
"""Seconds to wait after something unforeseen."""
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
        self._ports: HeldPorts | None = None
        self._routing = Routing(options.settings.max_request_bytes, options.is_idempotent)
        workers = options.workers or min(usable_cpus(), MOST_WORKERS)
        self._envoys = [KeptEnvoy(folder, number + 1, workers) for number in range(ENVOYS)]
        self._hedging = Hedging(options.hedge) if options.hedge is not None else None
        self._silence = {one: Silence() for one in self._envoys}
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
        self._ports = HeldPorts(self.listen)
        self.listen = self._ports.listen
        for one in self._envoys:
            start = bootstrap(self._ports.address, self._options, one.admin_socket)
            self._files.write(one.config, start)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._ports.close()
            raise self._failure

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Name the replicas, in place of those named before. Requests under way go on."""
        with self._lock:
            files = self._started_files()
            ready = sum(one.state == EndpointState.READY for one in endpoints)
            # A request is asked again only of those that are named already.
            if ready < self._routing.replicas:
                self._route(replicas=ready)
            files.set_replicas(endpoints)
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
        return sum((one.counters() for one in self._envoys), IngressCounters())

    def poll(self) -> bool:
        """Return whether an Envoy runs. One that has died is being started again."""
        return any(one.pid is not None for one in self._envoys)

    def drain(self, seconds: float | None = None) -> bool:
        """Refuse new requests, wait for those under way, and close the ports.

        Connections that stay open are told to close with their next answer. Returns False if some
        requests have not ended in time: the settings' drain timeout, unless `seconds` are given.
        """
        allowed = self._options.settings.drain_timeout if seconds is None else seconds
        give_up = time.monotonic() + allowed
        with self._lock:
            self._is_draining = True
            self._route(is_stopping=True)
            self._tell("/healthcheck/fail")
        is_done = self._wait_quiet(give_up)
        self._tell("/drain_listeners")
        return self._wait_quiet(max(give_up, time.monotonic() + 2 * _QUIET_SECONDS)) and is_done

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
        """Return the number of requests under way."""
        count = 0
        for one in self._running():
            with suppress(Unavailable):  # it is gone, and with it what it did
                count += sum(one.admin.counters(_ACTIVE).values())
        return count

    def stop(self) -> None:
        """End Envoy."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._ports is not None:
            self._ports.close()

    def _started_files(self) -> ConfigFiles:
        if self._files is None:
            raise RuntimeError("the ingress has not been started")
        return self._files

    def _route(self, **changes: object) -> None:
        routing = replace(self._routing, **changes)  # type: ignore[arg-type]
        if routing != self._routing:
            self._routing = routing
            self._started_files().set_routing(routing)

    def _running(self) -> list[KeptEnvoy]:
        return [one for one in self._envoys if one.pid is not None]

    def _tell(self, path: str) -> None:
        for one in self._running():
            with suppress(Unavailable):  # it is gone, and with it what it did
                one.admin.post(path)

    def _run(self) -> None:
        """Start the Envoys and look after them; in a thread of its own, with which they end."""
        try:
            self._start_envoys()
        except MlserveError as error:
            self._failure = error
        except OSError as error:
            self._failure = _not_started(error)
        finally:
            self._started.set()
        while self._failure is None and not self._ending.wait(_LOOK_SECONDS):
            try:
                self._look_after()
            except Unavailable as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001 - Envoy would end with this thread
                _log.exception("the ingress was not looked after, and is again in a moment")
                self._ending.wait(_AGAIN_SECONDS)
        for one in self._envoys:
            one.stop()

    def _start_envoys(self) -> None:
        for one in self._envoys:
            one.start()
        while not all(one.has_begun() for one in self._envoys):
            if self._ending.wait(_PAUSE):
                raise Unavailable("the ingress was stopped before it had started")

    def _look_after(self) -> None:
        if not self._is_draining:
            for one in self._envoys:
                one.keep()
        running = self._running()
        if not running:
            return
        with self._lock:
            seen = {one: _replicas(one) for one in running}
            ready = max(sum(r.is_ready for r in of_one) for of_one in seen.values())
            ready //= len(PROTOCOLS)
            self._route(replicas=ready)
            if ready and self._routing.is_idempotent:  # else nobody else may answer them
                for one, replicas in seen.items():
                    if (pid := one.pid) is not None:
                        self._silence[one].end(pid, replicas)
            if time.monotonic() - self._counted_at >= _COUNT_SECONDS or self._hedging is not None:
                counted = self.counters()
                self._counted_at = time.monotonic()
                if self._hedging is not None and self._routing.is_idempotent:
                    look = read_look([one.admin for one in running], counted)
                    active = sum(r.active for of_one in seen.values() for r in of_one)
                    self._route(patience=self._hedging.patience(look, active, ready))


def _replicas(envoy: KeptEnvoy) -> list[Replica]:
    return [one for name in PROTOCOLS for one in envoy.admin.replicas(name)]


def _not_started(error: OSError) -> Unavailable:
    return Unavailable(
        f"the ingress (Envoy) cannot be started: {error}",
        hint="see whether this machine has room for a process, and for files in its folder of "
        "temporary files (TMPDIR)",
    )
