"""The server process: opens both ports, loads the model, serves, and drains when told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlserve.errors import ExitCode, MlserveError
from mlserve.server.background import end_process
from mlserve.server.catalog import Catalog
from mlserve.server.config_reload import ConfigReload
from mlserve.server.cpus import usable_cpus
from mlserve.server.engine import Engine
from mlserve.server.oip_grpc import OipGrpc
from mlserve.server.oip_rest import OipRest
from mlserve.server.openapi import OpenApi
from mlserve.server.ports import GrpcPort, RestPort
from mlserve.server.rest import RestApp
from mlserve.server.served import ServedModel
from mlserve.server.tfs_grpc import TfsGrpc
from mlserve.server.tfs_rest import TfsRest
from mlserve.settings import ServerSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What to serve, and where and how. Port 0 is any free one; threads None, one for each CPU.

    Without a `rest_port` there is no REST. `grpc_socket` is a UNIX socket beside the gRPC port.
    `reload` takes other models while the server runs; None serves these until the end.
    """

    models: Sequence[ServedModel]
    host: str
    grpc_port: int
    rest_port: int | None
    threads: int | None
    settings: ServerSettings
    grpc_socket: Path | None = None
    reload: ConfigReload | None = None


class Server:
    """The parts of a server process, put together."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._is_draining = False
        self.grpc = GrpcPort(options.host, options.grpc_port)
        if options.grpc_socket is not None:
            self.grpc.listen_on(options.grpc_socket)
        rest_port = options.rest_port
        self.rest = None if rest_port is None else RestPort(options.host, rest_port)
        threads = options.threads or usable_cpus()
        self.repository = Catalog(self._note_change)
        self.engine = Engine(self.repository, threads=threads, max_queue=options.settings.max_queue)

    async def run(self) -> bool:
        """Serves until a signal. True when nothing runs any more, so that the process may end.

        Raises MlserveError when no version can be loaded.
        """
        self._catch_signals()
        self.repository.begin(self._options.models)
        parts, reload = (self.engine, self.repository), self._options.reload
        tfs = TfsGrpc(*parts, reload=reload)
        await self.grpc.start((*tfs.services(), *OipGrpc(*parts).services()))
        if self.rest is not None:
            await self.rest.start(RestApp([TfsRest(*parts), OipRest(*parts), OpenApi()]))
        rest = "off" if self.rest is None else self.rest.address
        _log.info("listening grpc=%s rest=%s", self.grpc.address, rest)
        try:
            return await self._serve()
        finally:
            ports = (port for port in (self.grpc, self.rest) if port is not None)
            await asyncio.gather(*(port.stop() for port in ports))

    async def _serve(self) -> bool:
        model = asyncio.create_task(self._load_and_follow())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((model, stop), return_when=asyncio.FIRST_COMPLETED)
        if model.done():
            await model
        model.cancel()
        return await self._drain() and not self.repository.is_loading

    async def _load_and_follow(self) -> None:
        reload = self._options.reload
        changes = [] if reload is None else [reload.follow(self.repository)]
        await asyncio.gather(self.repository.run(), *changes)

    async def _drain(self) -> bool:
        _log.info("stopping: %d requests to finish", self.engine.unfinished)
        self._is_draining = True
        self._note_change()
        is_done = await self.engine.drain(self._options.settings.drain_timeout)
        if is_done:
            await self.repository.close()
        else:
            _log.warning("stopping with %d requests unfinished", self.engine.unfinished)
        return is_done

    def _note_change(self) -> None:
        self.grpc.show_ready(self.repository.is_ready and not self._is_draining)

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
        return log_error(error)
    if not is_done:
        end_process(ExitCode.OK)
    # The last collection would walk everything that the process frees anyway: with TensorFlow more
    # than a second of the two that `docker stop` may take of an idle server.
    gc.freeze()
    return ExitCode.OK


def log_error(error: MlserveError) -> ExitCode:
    """Writes the error and its hint to the log; returns what the process is to end with."""
    _log.error("%s", error.message)
    if error.hint:
        _log.error("hint: %s", error.hint)
    return error.exit_code
