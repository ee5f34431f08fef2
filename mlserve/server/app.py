"""The server process: opens both ports, loads the models, serves, and drains on a signal."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve.background import end_process
from mlserve.errors import ExitCode, MlserveError
from mlserve.server.body_memory import BodyMemory
from mlserve.server.engine.engine import Engine
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.drain import InFlight
from mlserve.server.listen.grpc.service import unary_methods
from mlserve.server.listen.limits import log_limits, within_file_limit
from mlserve.server.listen.ports import LAST_WORDS, GrpcPort, RestPort
from mlserve.server.listen.routes import RestApp
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.server.oip.extensions import OipExtensions
from mlserve.server.oip.grpc import OipGrpcService
from mlserve.server.oip.rest import OipRestExtensions, OipRestService
from mlserve.server.pages import MetricsPage, OpenApiPage
from mlserve.server.telemetry.gauges import Gauges
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.server.tfs.grpc import SHORT_NAMES, ModelReload, TfsGrpcService
from mlserve.server.tfs.rest import CORS, TfsRestService
from mlserve.settings import ServerSettings
from mlserve.system import give_back_large_blocks, usable_cpus

_log = logging.getLogger(__name__)
_TURN = 0.001
"""Seconds that a thread may hold the interpreter while others wait (Python's default: 0.005).

The event loop releases it at each system call, and waits this long to get it back while a worker
reads a long request; a health check makes half a dozen system calls.
"""

_UNLOADING = 2.0
"""Minimum time in seconds for unloading the models, once every request has ended."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What to serve, where and how. Port 0 is any free port; `threads` None is one for each CPU.

    Without `rest_port` there is no REST. `grpc_socket` is a UNIX socket beside the gRPC port.
    `reload` changes the models while the server runs; None serves the same ones until the end.
    `cors` allows pages of every origin to use the REST port.
    """

    models: Sequence[ModelSpec]
    host: str
    grpc_port: int
    rest_port: int | None
    threads: int | None
    settings: ServerSettings
    grpc_socket: Path | None = None
    reload: ModelReload | None = None
    metrics_path: str | None = None
    cors: bool = False


class Server:
    """A server process, assembled from its parts."""

    def __init__(self, options: ServerOptions) -> None:
        options = replace(options, settings=within_file_limit(options.settings))
        self._options = options
        self._stop = asyncio.Event()
        self._give_up = 0.0
        self.in_flight = InFlight()
        self.memory = BodyMemory(options.settings.body_memory)
        self.metrics = Metrics()
        self.request_log = RequestLog(options.settings)
        self.telemetry = Telemetry(self.metrics, self.request_log)
        place = options.host, options.grpc_port
        self.grpc = GrpcPort(*place, self.telemetry, self.memory, options.settings)
        if options.grpc_socket is not None:
            self.grpc.listen_on(options.grpc_socket)
        self.rest = (
            None
            if options.rest_port is None
            else RestPort(options.host, options.rest_port, options.settings)
        )
        self.models = Models(self._note_change)
        self.engine = Engine(
            self.models,
            self.telemetry,
            threads=options.threads or usable_cpus(),
            settings=options.settings,
        )
        self.metrics.registry.register(Gauges(self.engine, self.models, self.memory))

    async def run(self) -> bool:
        """Serve until a signal; return True when nothing runs any more and the process may exit.

        Raises MlserveError when no version can be loaded.
        """
        self._catch_signals()
        if not await self._find_models():
            return True
        await self._open_ports()
        try:
            return await self._serve()
        finally:
            left = max(LAST_WORDS, self._give_up - time.monotonic())
            ports = (port for port in (self.grpc, self.rest) if port is not None)
            await asyncio.gather(*(port.stop(left) for port in ports))
            self.request_log.close()

    async def _find_models(self) -> bool:
        """Find the first models; return False if a signal came first.

        A lost disk may never answer, so a signal must end the search. Raises NotFound.
        """
        search = asyncio.create_task(self.models.begin(self._options.models))
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((search, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not search.done():
            search.cancel()
            return False
        await search
        return True

    async def _open_ports(self) -> None:
        parts = self.engine, self.models
        host = self._options.host
        tfs = TfsGrpcService(*parts, host=host, reload=self._options.reload)
        extensions = OipExtensions(*parts, self.telemetry.statistics, host=host)
        oip = OipGrpcService(*parts, extensions)
        seen_by = self.telemetry, self.in_flight
        methods = unary_methods((*tfs.services(), *oip.services()), self.engine, *seen_by)
        await self.grpc.start(methods, SHORT_NAMES)
        rest = "off"
        if self.rest is not None:
            protocols = (
                TfsRestService(*parts, self.memory),
                OipRestExtensions(extensions, self.memory),
                OipRestService(*parts, self.memory),
                OpenApiPage(),
                MetricsPage(self.metrics, self._options.metrics_path),
            )
            gate = RestGate.from_settings(self._options.settings)
            headers = CORS if self._options.cors else ()
            await self.rest.start(RestApp(gate, protocols, *seen_by, headers))
            rest = self.rest.address
        log_limits(self._options.settings, self.engine.max_queue, host)
        _log.info("listening grpc=%s rest=%s", self.grpc.address, rest)

    async def _serve(self) -> bool:
        model = asyncio.create_task(self._load_and_follow())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((model, stop), return_when=asyncio.FIRST_COMPLETED)
        if model.done():
            await model
        model.cancel()
        return await self._drain() and not self.models.is_loading

    async def _load_and_follow(self) -> None:
        reload = self._options.reload
        changes = [] if reload is None else [reload.follow(self.models)]
        await asyncio.gather(self.models.run(), *changes)

    async def _drain(self) -> bool:
        """Turn readiness off, refuse new requests, and finish those that have arrived."""
        seconds = self._options.settings.drain_timeout
        self._give_up = time.monotonic() + seconds
        self.engine.refuse_new()
        self.in_flight.begin_drain()
        self._note_change()
        _log.info("stopping: %d requests to finish", self.in_flight.unfinished)
        await self.in_flight.wait_done(seconds)
        # Work whose client has left no longer counts as a request, but it still runs.
        is_done = await self.engine.drain(max(0.0, self._give_up - time.monotonic()))
        if not is_done:
            _log.warning("stopping with %d requests unfinished", self.engine.unfinished)
            return False
        return await self._unload(max(_UNLOADING, self._give_up - time.monotonic()))

    async def _unload(self, seconds: float) -> bool:
        """Unload every model; return False if that took longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.models.close()
        except TimeoutError:
            _log.warning("stopping with a model that was not unloaded within %g s", seconds)
            return False
        return True

    def _note_change(self) -> None:
        self.grpc.show_ready(self.models.is_ready and not self.in_flight.is_draining)

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
    """Serve until a signal and return the exit code. Logs every error."""
    give_back_large_blocks()
    sys.setswitchinterval(_TURN)
    try:
        is_done = await Server(options).run()
    except MlserveError as error:
        return log_error(error)
    if not is_done:
        end_process(ExitCode.OK)
    # The final collection would walk everything that the process frees anyway: with TensorFlow that
    # takes over one of the two seconds that `docker stop` may take for an idle server.
    gc.freeze()
    return ExitCode.OK


def log_error(error: MlserveError) -> ExitCode:
    """Log the error and its hint; return its exit code."""
    _log.error("%s", error.message)
    if error.hint:
        _log.error("hint: %s", error.hint)
    return error.exit_code
