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
from concurrent.futures import ThreadPoolExecutor
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
from mlserve_ray import cluster
from mlserve_ray.driver_process import DriverProcess
from mlserve_ray.flags import FrontOptions, replica_plan
from mlserve_ray.fleet import Fleet, needed_files
from mlserve_ray.folders import own_folder
from mlserve_ray.ingress import Ingress
from mlserve_ray.ingress.options import Endpoint, EndpointState, IngressOptions, Listen
from mlserve_ray.pages import Pages, own_metrics
from mlserve_ray.replica_log import ReplicaLog
from mlserve_ray.reports import Report, Snapshot, Wishes
from mlserve_ray.rollout import Rollout
from mlserve_ray.scrape import Asked, NoAnswer
from mlserve_ray.store_watch import StoreWatch

_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0
_WATCH_SECONDS = 0.5
_SCALE_EVERY = 2.0
_ROSTER_PAUSE = 0.5
_AGAIN_SECONDS = 2.0
_BRING_AGAIN_SECONDS = 10.0
_LAST_SECONDS = 10.0
"""Seconds that replicas have to end, besides those of their drain."""
_PLACED_WITHIN = 30.0
"""Seconds after which it is said that a replica is not placed yet."""
_PAGE_THREADS = 16
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
        self._scale_wanted = options.cluster.least
        self._node: cluster.Node | None = None
        self._driver: DriverProcess | None = None
        self._id = f"{socket.gethostname()}:{os.getpid()}"
        self._ingress: Ingress | None = None
        self._rollout: Rollout | None = None
        self._pages: Pages | None = None
        self._wished: Wishes | None = None
        self._endpoints: list[Endpoint] = []
        self._brought: set[int] = set()
        self._bring_at = 0.0

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
            if self._node is not None:
                self._node.kill()
                shutil.rmtree(self._node.folder, ignore_errors=True)
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
        self._node = await self._start_node()
        await run_on_daemon_thread(cluster.wait_started, self._node)
        await self._connect(self._node)
        await self._ask("end_orphans")
        await self._ask("require_room")
        await self._ask("deploy")
        self._placed_by = time.monotonic() + _PLACED_WITHIN
        _log.info("Ray Serve places the replicas: %s", self._options.cluster.replicas)

    async def _start_node(self) -> cluster.Node:
        address = self._options.cluster.address
        if address is None:
            _log.info("starting a local Ray")
            return cluster.start_local(self._options.name)
        _log.info("joining the Ray cluster at %s", address)
        ours = await run_on_daemon_thread(cluster.own_address, address)
        return cluster.join(self._options.name, address, ours)

    async def _connect(self, node: cluster.Node) -> None:
        """Start the driver, and tell the roster what is wanted, before any replica asks."""
        options = self._options
        if self._driver is not None:
            self._driver.kill()
        setup = (self._plan, options.cluster, options.downscale_delay)
        self._driver = DriverProcess(setup, self._folder / "driver.log")
        await self._ask("connect", node.address, str(node.temp_dir), self._id)
        self._brought.clear()
        self._wished = None
        self._wish()
        await self._tell_wishes()

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the driver. Raises MlserveError."""
        if self._driver is None:
            raise Unavailable("there is no connection to Ray", hint="see mlserve logs")
        return await run_on_daemon_thread(self._driver.call, method, *arguments)

    # What goes on

    def _loops(self) -> list[tuple[Callable[[], Coroutine[Any, Any, None]], float]]:
        return [
            (self._watch_roster, 0.0),
            (self._watch_store, _LOOK_EVERY),
            (self._watch_node, 0.2),
            (self._watch_scale, _SCALE_EVERY),
        ]

    _serial = -1

    async def _watch_roster(self) -> None:
        try:
            snapshot: Snapshot = await self._ask("watch", self._id, self._serial, _WATCH_SECONDS)
        except Unavailable as error:
            _log.warning("the roster does not answer: %s", error.message)
            await asyncio.sleep(_ROSTER_PAUSE)
            return
        self._serial = snapshot.serial
        self._log.write(snapshot)
        if self._fleet.take(snapshot, time.monotonic()):
            self._wished = None  # it was started again, and knows no wishes
        self._require_a_chance()
        rollout = self._rolling
        rollout.step(self._fleet.replicas, time.monotonic())
        self._note_rolled()
        await self._offer_files()
        await self._set_endpoints()
        self._wish()
        await self._tell_wishes()

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

    async def _ask_softly(self, method: str) -> Any:
        """Call the driver; None while Ray does not answer."""
        with suppress(Unavailable):
            return await self._ask(method)
        return None

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

    async def _watch_node(self) -> None:
        """Start again what of Ray has ended here. Replicas on other machines are served meanwhile.

        A local Ray takes its replicas with it, and gets new ones.
        """
        assert self._node is not None
        assert self._driver is not None
        if not self._node.has_ended and not self._driver.has_ended:
            return
        _log.error(
            "the connection to Ray is lost, and is made again: %s", self._driver.last_words()
        )
        while True:
            try:
                if self._node.has_ended:
                    await run_on_daemon_thread(self._node.stop)
                    self._node = await self._start_node()
                    await run_on_daemon_thread(cluster.wait_started, self._node)
                await self._connect(self._node)
                await self._ask("deploy_again")
            except (Unavailable, PluginError) as error:
                _log.warning("there is no connection to Ray: %s", error.message)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                _log.info("the connection to Ray is back")
                return

    _placed_by = 0.0

    async def _watch_scale(self) -> None:
        found: int | None = await self._ask_softly("wanted_replicas")
        if found is not None:
            self._scale_wanted = found
        here = len(self._fleet.replicas)
        if found is None or here >= found:
            self._placed_by = time.monotonic() + _PLACED_WITHIN
        elif time.monotonic() > self._placed_by:
            self._placed_by = float("inf")
            reason = await self._ask_softly("trouble")
            _log.warning(
                "%d of %d replicas run: Ray has no room for more, or their nodes lack a package%s",
                *(here, self._scale_wanted, f": {bounded(reason)}" if reason else ""),
            )
            if reason and not self._fleet.was_ready:
                raise Unavailable(
                    f"no replica gets ready: {bounded(reason)}",
                    hint="every node needs the same Python, with mlserve-ray and the backend",
                )

    async def _offer_files(self) -> None:
        """Put the versions that a node lacks into the object store."""
        if self._options.cluster.fetch_from is not None or time.monotonic() < self._bring_at:
            return
        self._brought &= self._wishes.versions  # the driver has let go of the others
        for version in needed_files(self._fleet.replicas) - self._brought:
            if version not in self._store.offers:
                continue
            _log.info("version %d goes to the nodes that lack it", version)
            try:
                await self._ask("bring", version, self._store.base_folder(version))
            except Unavailable as error:
                # The replicas that have it serve on: its folder may be gone, or the driver.
                _log.error("version %d cannot go there: %s", version, error.message)
                self._bring_at = time.monotonic() + _BRING_AGAIN_SECONDS
                return
            self._brought.add(version)
            self._wished = None

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

    def _wish(self) -> None:
        rollout = self._rolling
        removed = frozenset(e.id for e in self._endpoints if e.state is EndpointState.DRAINING)
        removed |= self._fleet.draining - {e.id for e in self._endpoints}
        self._wishes = Wishes(
            rollout.current.versions, rollout.by_replica, dict(self._store.offers), removed
        )

    async def _tell_wishes(self) -> None:
        if self._wishes == self._wished:
            return
        wishes = self._wishes
        try:
            await self._ask("wish", wishes)
        except Unavailable as error:
            _log.warning("the roster does not answer: %s", error.message)
            return
        self._wished = wishes

    # The pages

    def _status(self) -> ReplicaSet:
        cluster_options, rollout = self._options.cluster, self._rolling
        versions = (rollout.target or rollout.current).versions
        return ReplicaSet(
            name=self._options.name,
            model=self._options.model.model,
            replicas=self._fleet.told,
            scale=Scale(cluster_options.least, cluster_options.most, self._scale_wanted),
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
        """Ask every replica for its metrics, side by side."""
        with ThreadPoolExecutor(_PAGE_THREADS) as threads:
            found = threads.map(self._metrics_page, self._fleet.endpoints)
            return {replica: page for replica, page in found if page}

    def _metrics_page(self, replica: Report) -> tuple[str, str]:
        plan = self._plan
        asked = Asked(replica.host, replica.rest_port, plan.model, plan.token, plan.slots)
        try:
            return replica.id, asked.get("/metrics").decode()
        except NoAnswer:
            return replica.id, ""

    # The end

    async def _end(self) -> None:
        """Answer what is being asked, end the replicas, and leave nothing behind."""
        if self._ingress is not None:
            with _logged("the ingress"):
                await asyncio.to_thread(self._ingress.drain, self._plan.drain_timeout)
        if self._driver is not None:
            with _logged("the replicas"):
                await self._end_replicas()
            self._driver.kill()
        if self._ingress is not None:
            with _logged("the ingress"):
                await asyncio.to_thread(self._ingress.stop)
        if self._pages is not None:
            await self._pages.stop()
        if self._node is not None:
            await run_on_daemon_thread(self._node.stop)
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
        await self._ask("begin_end")
        give_up = time.monotonic() + seconds
        while self._fleet.live and time.monotonic() < give_up:
            # Those that end wait until they hear that the ingress does not ask them.
            await self._hear_last()
        await self._ask("end")

    async def _hear_last(self) -> None:
        snapshot = await self._ask("watch", self._id, self._serial, 0.1)
        self._serial = snapshot.serial
        self._log.write(snapshot)
        self._fleet.take(snapshot, time.monotonic())
        self._endpoints = []
        self._wish()
        await self._tell_wishes()


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
