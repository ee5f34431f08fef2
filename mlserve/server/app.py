"""The server process: opens both ports, loads the model, serves, and drains when told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from mlserve import plugins
from mlserve.backend import LoadOptions
from mlserve.errors import ExitCode, MlserveError
from mlserve.server.access import RestGate
from mlserve.server.background import end_process
from mlserve.server.cpus import usable_cpus
from mlserve.server.engine import Engine
from mlserve.server.in_flight import CountedApp, CountedService, InFlight
from mlserve.server.limits import log_limits, make_room_for_connections
from mlserve.server.metrics import Metrics
from mlserve.server.metrics_page import MetricsPage
from mlserve.server.oip_grpc import OipGrpc
from mlserve.server.oip_rest import OipRest
from mlserve.server.openapi import OpenApi
from mlserve.server.ports import LAST_WORDS, GrpcPort, RestPort
from mlserve.server.repository import Repository, ServedModel
from mlserve.server.request_log import RequestLog
from mlserve.server.rest import RestApp
from mlserve.server.sight import Sight
from mlserve.server.tfs_grpc import TfsGrpc
from mlserve.server.tfs_rest import TfsRest
from mlserve.server.versions import VersionPolicy
from mlserve.settings import ServerSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve one model. Times are seconds; None lets the server choose; port 0, the OS."""

    backend: str
    model: str
    base_path: Path
    policy: VersionPolicy
    host: str
    grpc_port: int
    rest_port: int
    poll_seconds: float
    threads: int | None
    provider: str | None
    instances: int | None
    settings: ServerSettings


class Server:
    """The parts of a server process, put together."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._give_up = 0.0
        self.in_flight = InFlight()
        self.metrics = Metrics()
        self.request_log = RequestLog(options.settings)
        self.sight = Sight(self.metrics, self.request_log)
        make_room_for_connections(options.settings)
        self.grpc = GrpcPort(options.host, options.grpc_port, self.sight, options.settings)
        self.rest = RestPort(options.host, options.rest_port, options.settings)
        threads = options.threads or usable_cpus()
        source = ServedModel(
            plugins.backend(options.backend),
            options.model,
            options.base_path,
            options.policy,
            LoadOptions(options.threads, options.provider, options.instances),
            options.poll_seconds,
        )
        self.repository = Repository(source, self._note_change)
        self.engine = Engine(
            self.repository, threads=threads, settings=options.settings, observer=self.sight
        )
        self.metrics.show(self.engine, self.repository)

    async def run(self) -> bool:
        """Serves until a signal. True when nothing runs any more, so that the process may end.

        Raises MlserveError when no version can be loaded.
        """
        self._catch_signals()
        self.repository.find()
        parts = self.engine, self.repository
        services = (*TfsGrpc(*parts).services(self.sight), *OipGrpc(*parts).services(self.sight))
        await self.grpc.start([CountedService(service, self.in_flight) for service in services])
        pages = OpenApi(), MetricsPage(self.metrics)
        gate = RestGate.of(self._options.settings)
        app = RestApp([gate, TfsRest(*parts), OipRest(*parts), *pages], self.sight)
        await self.rest.start(CountedApp(app, self.in_flight))
        log_limits(self._options.settings, self.engine.max_queue, self._options.host)
        _log.info("listening grpc=%s rest=%s", self.grpc.address, self.rest.address)
        try:
            return await self._serve()
        finally:
            left = max(LAST_WORDS, self._give_up - time.monotonic())
            await asyncio.gather(self.grpc.stop(left), self.rest.stop(left))
            self.request_log.close()

    async def _serve(self) -> bool:
        model = asyncio.create_task(self._load_and_follow())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((model, stop), return_when=asyncio.FIRST_COMPLETED)
        if model.done():
            await model
        model.cancel()
        return await self._drain() and not self.repository.is_loading

    async def _load_and_follow(self) -> None:
        await self.repository.load()
        await self.repository.follow()
        await self._stop.wait()

    async def _drain(self) -> bool:
        """Turns readiness off, refuses what is new, and finishes what had arrived before."""
        seconds = self._options.settings.drain_timeout
        self._give_up = time.monotonic() + seconds
        self.engine.refuse_new()
        self.in_flight.begin_drain()
        self._note_change()
        _log.info("stopping: %d requests to finish", self.in_flight.unfinished)
        await self.in_flight.wait_done(seconds)
        # Work whose client has left is no request any more, but it still runs.
        is_done = await self.engine.drain(max(0.0, self._give_up - time.monotonic()))
        if is_done:
            await self.repository.close()
        else:
            _log.warning("stopping with %d requests unfinished", self.engine.unfinished)
        return is_done

    def _note_change(self) -> None:
        self.grpc.show_ready(self.repository.is_ready and not self.in_flight.is_draining)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            _log.warning("a second signal: ending at once")
            end_process(ExitCode.INTERRUPTED)
        self._stop.set()


async def serve(options: ServerOptions) -> ExitCode:
    """Serves until a signal and returns what the process is to end with. Logs every error."""
    try:
        is_done = await Server(options).run()
    except MlserveError as error:
        _log.error("%s", error.message)
        if error.hint:
            _log.error("hint: %s", error.hint)
        return error.exit_code
    if not is_done:
        end_process(ExitCode.OK)
    return ExitCode.OK
