"""The server process: opens both ports, loads the model, serves, and drains when told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass
from pathlib import Path

from mlserve import plugins
from mlserve.backend import LoadOptions
from mlserve.errors import ExitCode, MlserveError
from mlserve.server.background import end_process
from mlserve.server.cpus import usable_cpus
from mlserve.server.engine import Engine
from mlserve.server.oip_grpc import OipGrpc
from mlserve.server.oip_rest import OipRest
from mlserve.server.openapi import OpenApi
from mlserve.server.ports import GrpcPort, RestPort
from mlserve.server.repository import Repository, ServedModel
from mlserve.server.rest import RestApp
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
        self._is_draining = False
        self.grpc = GrpcPort(options.host, options.grpc_port)
        self.rest = RestPort(options.host, options.rest_port)
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
        self.engine = Engine(self.repository, threads=threads, max_queue=options.settings.max_queue)

    async def run(self) -> bool:
        """Serves until a signal. True when nothing runs any more, so that the process may end.

        Raises MlserveError when no version can be loaded.
        """
        self._catch_signals()
        self.repository.find()
        parts = self.engine, self.repository
        await self.grpc.start((*TfsGrpc(*parts).services(), *OipGrpc(*parts).services()))
        await self.rest.start(RestApp([TfsRest(*parts), OipRest(*parts), OpenApi()]))
        _log.info("listening grpc=%s rest=%s", self.grpc.address, self.rest.address)
        try:
            return await self._serve()
        finally:
            await asyncio.gather(self.grpc.stop(), self.rest.stop())

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
        _log.error("%s", error.message)
        if error.hint:
            _log.error("hint: %s", error.hint)
        return error.exit_code
    if not is_done:
        end_process(ExitCode.OK)
    return ExitCode.OK
