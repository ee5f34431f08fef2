"""The front: the process that `mlserve up --launcher ray` starts and `mlserve down` stops.

It has the address that clients use, through the ingress, and drives the cluster: it joins it or
starts one, has Ray Serve place the replicas, keeps the ingress's list of them, and rolls versions.
No request passes through this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlserve.background import end_process, run_on_daemon_thread
from mlserve.errors import (
    ExitCode,
    MlserveError,
    ModelLoadFailed,
    PluginError,
    Unavailable,
    UsageError,
    bounded,
    counted,
)
from mlserve.launch.ports import PortRequest, choose
from mlserve.wire.replicas import IngressCounts, ReplicaSet, RollingState, Scale
from mlserve_ray.connection import RayConnection
from mlserve_ray.flags import FrontOptions, replica_plan
from mlserve_ray.fleet import Fleet
from mlserve_ray.folders import own_folder
from mlserve_ray.guidance import Guidance
from mlserve_ray.ingress import Ingress
from mlserve_ray.ingress.options import Endpoint, EndpointState, IngressOptions, Listen
from mlserve_ray.pages import Pages, own_metrics, pages_of
from mlserve_ray.replica_log import ReplicaLog
from mlserve_ray.reports import Report, Snapshot
from mlserve_ray.rollout import Rollout
from mlserve_ray.scale import ScaleWatch
from mlserve_ray.store_watch import StoreWatch

_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0
_WATCH_SECONDS = 0.5
_SCALE_EVERY = 2.0
_ROSTER_PAUSE = 0.5
_AGAIN_SECONDS = 2.0
_LAST_SECONDS = 10.0
"""Seconds that replicas have to end, besides those of their drain."""
_ERRORS: Mapping[int, type[MlserveError]] = {
    int(ExitCode.USAGE): UsageError,
    int(ExitCode.PLUGIN): PluginError,
}
"""What it means when the server of a replica ends with such a code before it is ready."""


class Front:
    """One front. `run` is called once."""

    def __init__(self, options: FrontOptions) -> None:
        self._options = options
        self._plan = replica_plan(options)
        self._stop = asyncio.Event()
        self._store = StoreWatch(options.model, options.cluster.fetch_from)
        self._fleet = Fleet()
        self._log = ReplicaLog(options.settings.log_format)
        self._folder = own_folder("mlserve-front")
        self._id = f"{socket.gethostname()}:{os.getpid()}"
        setup = (self._plan, options.cluster, options.downscale_delay)
        self._ray = RayConnection(options, setup, self._folder, self._id, self._greet)
        self._scale = ScaleWatch(self._ray, self._fleet, options.cluster.least)
        brings_files = options.cluster.fetch_from is None
        self._guidance = Guidance(self._ray, self._store, brings_files=brings_files)
        self._ingress: Ingress | None = None
        self._rollout: Rollout | None = None
        self._pages: Pages | None = None
        self._endpoints: list[Endpoint] = []

    async def run(self) -> None:
        """Serve until a signal. Raises MlserveError for what keeps it from that."""
        self._catch_signals()
        serving = asyncio.create_task(self._serve())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
        finally:
            serving.cancel()
            stop.cancel()
            with suppress(asyncio.CancelledError, MlserveError):
                await serving
            await self._end()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            _log.warning("a second signal: ending at once")
            self._ray.kill()
            shutil.rmtree(self._folder, ignore_errors=True)
            end_process(ExitCode.INTERRUPTED)
        self._stop.set()

    # The start

    async def _serve(self) -> None:
        options, settings = self._options, self._options.settings
        first = await run_on_daemon_thread(self._store.first)
        self._rollout = Rollout(first)
        await self._open_ingress(self._store.is_idempotent(first.versions))
        for sentence in settings.exposure(options.server.host):
            _log.warning("%s", sentence)
        await self._start_cluster()
        loops = [asyncio.create_task(_forever(loop)) for loop in self._loops()]
        try:
            await asyncio.gather(*loops)
        finally:
            for loop in loops:  # else the others would go on, and start again what is being ended
                loop.cancel()

    async def _open_ingress(self, is_idempotent: bool) -> None:
        options = self._options
        server, settings = options.server, options.settings
        listen = choose(PortRequest(server.host, server.grpc_port, server.rest_port or 0))
        pages_settings = replace(settings, tls_cert=None, tls_key=None, tls_client_ca=None)
        self._pages = Pages(pages_settings, self._status, self._metrics_pages, self._own_metrics)
        await self._pages.start()
        self._ingress = Ingress(
            self._folder / "ingress",
            Listen(listen.host, listen.grpc_port, listen.rest_port),
            IngressOptions(settings, is_idempotent, options.cluster.hedge_quantile),
        )
        await asyncio.to_thread(self._ingress.start)
        await asyncio.to_thread(self._ingress.set_local, self._pages.port)
        found = self._ingress.listen
        _log.info(
            "listening grpc=%s:%d rest=%s:%d",
            *(found.host, found.grpc_port, found.host, found.rest_port),
        )

    async def _start_cluster(self) -> None:
        await self._ray.start()
        await self._ray.ask("end_orphans")
        await self._ray.ask("require_room")
        await self._ray.ask("deploy")
        self._scale.begin()
        _log.info("Ray Serve places the replicas: %s", self._options.cluster.replicas)

    async def _greet(self) -> None:
        """Tell the roster what is wanted, through a new driver."""
        self._guidance.forget_driver()
        await self._guide()

    # What goes on

    def _loops(self) -> list[tuple[Callable[[], Coroutine[Any, Any, None]], float]]:
        return [
            (self._watch_roster, 0.0),
            (self._watch_store, _LOOK_EVERY),
            (self._ray.watch, 0.2),
            (self._scale.look, _SCALE_EVERY),
        ]

    _serial = -1

    async def _watch_roster(self) -> None:
        try:
            snapshot = await self._hear(_WATCH_SECONDS)
        except Unavailable as error:
            _log.warning("the roster does not answer: %s", error.message)
            await asyncio.sleep(_ROSTER_PAUSE)
            return
        if self._fleet.take(snapshot, time.monotonic()):
            self._guidance.forget_roster()
        self._require_a_chance()
        self._rolling.step(self._fleet.replicas, time.monotonic())
        self._note_rolled()
        await self._guidance.bring(self._fleet.replicas)
        await self._set_endpoints()
        await self._guide()

    async def _hear(self, seconds: float) -> Snapshot:
        """Return what the roster knows once it is new, or after that time; log the replicas' lines.

        Raises MlserveError.
        """
        snapshot: Snapshot = await self._ray.ask("watch", self._id, self._serial, seconds)
        self._serial = snapshot.serial
        self._log.write(snapshot)
        return snapshot

    @property
    def _rolling(self) -> Rollout:
        assert self._rollout is not None
        return self._rollout

    def _require_a_chance(self) -> None:
        """Raise why no replica gets ready, once enough of them have failed at the start."""
        failures = list(self._fleet.failures.values())
        if self._fleet.was_ready or len(failures) < min(2, self._options.cluster.least):
            return
        last = failures[-1]
        kind = _ERRORS.get(last.exit_code, ModelLoadFailed)
        raise kind(
            f"no replica gets ready: {last.node}: {last.reason}",
            hint="the lines above are the log of the replicas",
        )

    _told_of: RollingState | None = None

    def _note_rolled(self) -> None:
        rollout = self._rolling
        if rollout.state is self._told_of:
            return
        self._told_of = rollout.state
        rolling = rollout.rolling
        if rolling is None:
            return
        if rolling.state is RollingState.REFUSED:
            _log.error("version %d is refused: %s", rolling.version, rolling.reason)
            _log.error("hint: the replicas serve what they served before")
        elif rolling.state is RollingState.DONE:
            _log.info("version %d is served by every replica", rolling.version)

    async def _watch_store(self) -> None:
        rollout = self._rolling
        aim = await run_on_daemon_thread(self._store.look, rollout.current.versions)
        if aim is None:
            return
        # Known before any replica is told: requests to some versions must not be asked twice.
        target = () if rollout.target is None else rollout.target.versions
        concerned = {*aim.versions, *target, *rollout.current.versions}
        is_idempotent = await run_on_daemon_thread(self._store.is_idempotent, concerned)
        assert self._ingress is not None
        await asyncio.to_thread(self._ingress.set_idempotent, is_idempotent)
        if rollout.aim(aim):
            _log.info("rolling to version %s", ", ".join(map(str, aim.versions)))
            self._told_of = RollingState.ROLLING

    async def _set_endpoints(self) -> None:
        ready = [_endpoint(each, EndpointState.READY) for each in self._fleet.endpoints]
        leaving = [
            _endpoint(each, EndpointState.DRAINING)
            for each in self._fleet.replicas
            if each.id in self._fleet.draining and each.rest_port
        ]
        endpoints = [*ready, *leaving]
        if endpoints == self._endpoints:
            return
        assert self._ingress is not None
        await asyncio.to_thread(self._ingress.set_endpoints, endpoints)
        self._endpoints = endpoints
        _log.info("ready: %s", counted(len(ready), "replica"))

    async def _guide(self) -> None:
        """Tell the roster what is wanted, and which replicas the ingress no longer asks."""
        removed = frozenset(e.id for e in self._endpoints if e.state is EndpointState.DRAINING)
        removed |= self._fleet.draining - {e.id for e in self._endpoints}
        self._guidance.wish(self._rolling, removed)
        await self._guidance.tell()

    # The pages

    def _status(self) -> ReplicaSet:
        cluster_options, rollout = self._options.cluster, self._rolling
        versions = (rollout.target or rollout.current).versions
        return ReplicaSet(
            name=self._options.name,
            model=self._options.model.model,
            replicas=self._fleet.told,
            scale=Scale(cluster_options.least, cluster_options.most, self._scale.wanted),
            wanted_version=versions[-1] if versions else None,
            rolling=rollout.rolling,
            ingress=IngressCounts(**self._counts()),
        )

    def _counts(self) -> dict[str, int]:
        assert self._ingress is not None
        counted = self._ingress.counters()
        names = ("requests", "refused", "redispatched", "hedged")
        return {name: getattr(counted, name) for name in names}

    def _own_metrics(self) -> list[Any]:
        return own_metrics(self._fleet.states, self._counts())

    def _metrics_pages(self) -> dict[str, str]:
        return pages_of(self._fleet.endpoints, self._plan)

    # The end

    async def _end(self) -> None:
        """Answer what is being asked, end the replicas, and leave nothing behind."""
        if self._ingress is not None:
            with _logged("the ingress"):
                await asyncio.to_thread(self._ingress.drain, self._plan.drain_timeout)
        if self._ray.was_made:
            with _logged("the replicas"):
                await self._end_replicas()
            self._ray.end_driver()
        if self._ingress is not None:
            with _logged("the ingress"):
                await asyncio.to_thread(self._ingress.stop)
        if self._pages is not None:
            await self._pages.stop()
        await self._ray.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _end_replicas(self) -> None:
        """Have the replicas drain and end. Those of a node that is lost are not waited for.

        Raises Unavailable if Ray does not answer: a cluster without its head may never do so.
        """
        seconds = self._plan.drain_timeout + _LAST_SECONDS
        try:
            async with asyncio.timeout(seconds + 1.0):
                await self._end_replicas_within(seconds)
        except TimeoutError:
            raise Unavailable(
                f"Ray did not answer within {seconds:g} s", hint="see whether the cluster runs"
            ) from None

    async def _end_replicas_within(self, seconds: float) -> None:
        await self._ray.ask("begin_end")
        give_up = time.monotonic() + seconds
        while self._fleet.live and time.monotonic() < give_up:
            # Those that end wait until they hear that the ingress does not ask them.
            self._fleet.take(await self._hear(0.1), time.monotonic())
            self._endpoints = []
            await self._guide()
        await self._ray.ask("end")


async def _forever(loop: tuple[Callable[[], Coroutine[Any, Any, None]], float]) -> None:
    work, pause = loop
    while True:
        try:
            await work()
        except OSError as error:  # such as a full disk: what is served is served on
            _log.error("%s, and is tried again", error)
            await asyncio.sleep(_AGAIN_SECONDS)
        await asyncio.sleep(pause)


class _logged:  # noqa: N801 - reads as a statement
    """Log what goes wrong in the block: the rest of the end must be reached."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            _log.error("the end of %s went wrong: %s", self._what, bounded(str(error)))
        return isinstance(error, Exception)


def _endpoint(replica: Report, state: EndpointState) -> Endpoint:
    return Endpoint(replica.id, replica.host, replica.grpc_port, replica.rest_port, state)
