"""The server process: opens both ports, loads the models, serves, and drains on a signal.

`parts` puts the protocols, the engine and the models together; this module runs them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlserve.activation import GRPC, NONE_PASSED, REST, PassedSockets
from mlserve.background import end_process
from mlserve.errors import ExitCode, MlserveError
from mlserve.notify import Notifier
from mlserve.server.listen.limits import log_limits, within_file_limit
from mlserve.server.listen.ports import LAST_WORDS, GrpcPort, RestPort
from mlserve.server.models.versions import ModelSpec
from mlserve.server.parts import ServerParts
from mlserve.server.tfs.grpc import SHORT_NAMES, ModelReload
from mlserve.settings import ServerSettings
from mlserve.system import give_back_large_blocks

_log = logging.getLogger(__name__)
_TURN = 0.001
"""Seconds that a thread may hold the interpreter while others wait (Python's default: 0.005).

The event loop releases it at each system call, and waits this long to get it back while a worker
reads a long request; a health check makes half a dozen system calls.
"""


_HAND_OVER = 5.0
"""Seconds that clients have to leave a server whose sockets another process takes over.

A request that takes longer is still answered, by the drain.
"""


class FollowedConfig(Protocol):
    """A file that describes the models, followed while the server runs."""

    async def follow(self, parts: ServerParts, /) -> None:
        """Apply each change of the file, forever."""

    def look_now(self, done: Callable[[], None], /) -> None:
        """Have the file read again at once; `done` is called once what it says is in force."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What to serve, where and how. Port 0 is any free port.

    `threads` is how many calls run at once, of all models together; None is one for each CPU.
    Without `rest_port` there is no REST.
    `reload` and `config` change the models while the server runs, by request and as a file changes;
    without them it serves the same ones until the end. `cors` allows pages of every origin to use
    the REST port. `sockets` that were passed to the process take the ports' places; the service
    manager that did so may want to be told how the server is.
    """

    models: Sequence[ModelSpec]
    host: str
    grpc_port: int
    rest_port: int | None
    threads: int | None
    settings: ServerSettings
    reload: ModelReload | None = None
    config: FollowedConfig | None = None
    metrics_path: str | None = None
    cors: bool = False
    sockets: PassedSockets = NONE_PASSED
    notifier: Notifier = field(default_factory=Notifier)


class Server:
    """A server process: its parts, and the two ports around them."""

    def __init__(self, options: ServerOptions) -> None:
        settings, sockets = within_file_limit(options.settings), options.sockets
        place = options.host, options.grpc_port
        # What the server allows depends on who can reach it.
        options = replace(options, settings=settings, host=sockets.host(options.host))
        self._options = options
        self._notifier = options.notifier
        self._stop = asyncio.Event()
        self._has_ports = False
        self._was_ready = False
        self._give_up = 0.0
        self.parts = ServerParts(
            settings, host=options.host, threads=options.threads, on_change=self._note_change
        )
        parts, passed = self.parts, sockets.opened(GRPC)
        self.grpc = GrpcPort(*place, parts.telemetry, parts.memory, settings, passed)
        self.rest = (
            None
            if options.rest_port is None
            else RestPort(place[0], options.rest_port, settings, sockets.opened(REST))
        )

    @property
    def _ports(self) -> list[GrpcPort | RestPort]:
        return [self.grpc] if self.rest is None else [self.grpc, self.rest]

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
            await asyncio.gather(*(port.stop(left) for port in self._ports))
            await self.parts.end_telemetry(self._give_up)

    async def _find_models(self) -> bool:
        """Find the first models; return False if a signal came first.

        A lost disk may never answer, so a signal must end the search. Raises NotFound.
        """
        search = asyncio.create_task(self.parts.models.begin(self._options.models))
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((search, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not search.done():
            search.cancel()
            return False
        await search
        return True

    async def _open_ports(self) -> None:
        options = self._options
        await self.grpc.start(self.parts.grpc_methods(options.reload), SHORT_NAMES)
        rest = "off"
        if self.rest is not None:
            app = self.parts.rest_app(options.metrics_path, cors=options.cors)
            await self.rest.start(app.begin)
            rest = self.rest.address
        log_limits(options.settings, self.parts.limits, options.host)
        _log.info("listening grpc=%s rest=%s", self.grpc.address, rest)
        self._has_ports = True
        self._note_change()
        self._tell_alive()

    async def _serve(self) -> bool:
        model = asyncio.create_task(self._load_and_follow())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((model, stop), return_when=asyncio.FIRST_COMPLETED)
        if model.done():
            await model
        model.cancel()
        seconds = self._options.settings.drain_timeout
        self._give_up = time.monotonic() + seconds
        self._notifier.stopping("answering the last requests")
        until = asyncio.get_running_loop().time() + min(seconds, _HAND_OVER)
        await asyncio.gather(*(port.hand_over(until) for port in self._ports))
        return await self.parts.drain(self._give_up) and not self.parts.models.is_loading

    async def _load_and_follow(self) -> None:
        reload, config, models = self._options.reload, self._options.config, self.parts.models
        changes = [] if reload is None else [reload.follow(models)]
        changes += [] if config is None else [config.follow(self.parts)]
        await asyncio.gather(self.parts.run_models(), *changes)

    def _note_change(self) -> None:
        is_ready = self.parts.is_ready
        self.grpc.show_ready(is_ready)
        if is_ready and self._has_ports and not (self._was_ready or self._stop.is_set()):
            self._was_ready = True
            # What waits at a socket that was passed to this process asks for an answer, not for
            # the news that the models are being loaded.
            for port in self._ports:
                port.accept_passed()
            self._tell_ready()

    def _tell_ready(self) -> None:
        names = ", ".join(self.parts.models.names)
        rest = "off" if self.rest is None else self.rest.address
        self._notifier.ready(f"serving {names} at grpc {self.grpc.address}, rest {rest}")

    def _tell_alive(self) -> None:
        """Tell the service manager that the event loop turns, twice in each time that it waits."""
        if (seconds := self._notifier.watchdog) is not None:
            self._notifier.alive()
            asyncio.get_running_loop().call_later(seconds / 2, self._tell_alive)

    def _reload(self) -> None:
        assert self._options.config is not None
        if self._was_ready:
            self._notifier.reloading()
        self._options.config.look_now(self._tell_reloaded)

    def _tell_reloaded(self) -> None:
        if self._was_ready:
            self._tell_ready()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._options.config is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload)

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
