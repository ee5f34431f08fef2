"""The models of a server as a configuration file describes them, followed while it changes.

The file is looked at every second, and read again once it has changed and two looks have found it
the same, as an editor may still be writing it. SIGHUP has it read at once. What it then says is
applied as a whole or, with the reason in the log and in `mlserve status`, not at all:

- a new model is loaded, and one that is gone is unloaded after its last request;
- a model with other load options is loaded with them, and replaces the old one when it is ready;
- a model that fails to load is named in the same places, and does not keep the others from it;
- the address, TLS, limits and the other settings of the server hold from its start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlserve import plugins
from mlserve.backend import Backend
from mlserve.background import run_on_daemon_thread
from mlserve.config.document import read_document
from mlserve.config.servers import ServerConfig, read_config
from mlserve.config.table import SERVERS
from mlserve.errors import MlserveError, UsageError, reason_of
from mlserve.model_choice import configured_models
from mlserve.options import described
from mlserve.served_model import ServedModel
from mlserve.server.models.versions import ModelSpec
from mlserve.server.parts import ServerParts
from mlserve.server_state import replace_state, state_text
from mlserve.settings import AUTO, EMBEDDED, ServerSettings

_log = logging.getLogger(__name__)

_Look = tuple[int, int, int] | None
"""The file's inode, size and time of change; None if it cannot be looked at."""


@dataclass(frozen=True, slots=True)
class StartedWith:
    """What of a server cannot change while it runs.

    `has_sockets` tells that it listens on sockets that were passed to it, wherever the file puts
    its ports.
    """

    host: str
    grpc_port: int
    rest_port: int
    settings: ServerSettings
    has_sockets: bool = False

    def differences(self, config: ServerConfig) -> Iterator[tuple[str, Any]]:
        """Yield the keys whose values in the file are others, with the values that hold."""
        if config.host != self.host and not self.has_sockets:
            yield "host", self.host
        for key in () if self.has_sockets else ("grpc_port", "rest_port"):
            if getattr(config, key) and getattr(config, key) != getattr(self, key):
                yield key, getattr(self, key)
        if config.launcher not in (AUTO, EMBEDDED):
            yield "launcher", EMBEDDED
        for item in described(ServerSettings):
            own = getattr(self.settings, item.name)
            if getattr(config.settings, item.name) != own:
                yield item.name, own


class ConfigFile:
    """The table `[servers.<server>]` of the file at `path`, and a server that follows it.

    What is served, and why a file is not in force, goes to the file `state`; None writes none.
    `poll_seconds` is the time between two looks at the file and at the models' folders; 0 never
    looks again.
    """

    def __init__(
        self,
        path: Path,
        server: str,
        started: StartedWith,
        *,
        state: Path | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self.path = path
        self.server = server
        self._started = started
        self._state = state
        self._poll_seconds = poll_seconds
        self._backends: dict[str, Backend] = {}
        self._in_force: tuple[ServedModel, ...] = ()
        self._read_at: _Look = None
        self._is_told = asyncio.Event()
        self._to_tell: list[Callable[[], None]] = []

    def first_models(self) -> tuple[ModelSpec, ...]:
        """Return the models to start with. Raises UsageError, and what the choice of one raises."""
        self._read_at = _look(self.path)
        self._in_force = self._read()
        return self._specs()

    def look_now(self, done: Callable[[], None]) -> None:
        """Have the file read again at once, even if it has not changed.

        `done` is called once what it says is in force, or has been refused.
        """
        self._to_tell.append(done)
        self._is_told.set()

    async def follow(self, parts: ServerParts) -> None:
        """Apply each change of the file, forever; an error changes nothing."""
        before = self._read_at
        while True:
            is_told = await self._wait()
            now = await run_on_daemon_thread(_look, self.path)
            if is_told or (now == before and now != self._read_at):
                self._read_at = now
                problem = await self._try_to_apply(parts)
                parts.metrics.config_in_force(not problem)
                self._write_state(problem)
                while self._to_tell:
                    self._to_tell.pop()()
            before = now

    async def _wait(self) -> bool:
        """Wait for the next look; return True if it was asked for."""
        try:
            async with asyncio.timeout(self._poll_seconds or None):
                await self._is_told.wait()
        except TimeoutError:
            return False
        self._is_told.clear()
        return True

    async def _try_to_apply(self, parts: ServerParts) -> str:
        """Serve what the file says now; return why that is not so, else the empty string."""
        try:
            return await self._apply(parts)
        except Exception as error:  # noqa: BLE001 - the models that are served must not stop
            _log.exception("%s cannot be applied", self.path)
            return self._half(f"{reason_of(error)} (hint: the log has the traceback)")

    async def _apply(self, parts: ServerParts) -> str:
        try:
            self._in_force = await run_on_daemon_thread(self._read)
        except MlserveError as error:
            _log.error("the configuration is refused, and the old one goes on: %s", error.message)
            return f"refused {self.path} and goes on with what it said before: {_told(error)}"
        self._write_state("")
        _log.info("the configuration of %s has changed: %s", self.server, self._in_words())
        try:
            await parts.models.serve(self._specs())
        except MlserveError as error:
            _log.error("%s", error.message)
            return self._half(_told(error))
        _log.info("the configuration is in force")
        return ""

    def _half(self, failed: str) -> str:
        """Return what is said of the server when something failed after the file was accepted."""
        return f"serves {self.path}, but this failed when it was read: {failed}"

    def _read(self) -> tuple[ServedModel, ...]:
        config = read_config(self.path).server(self.server)
        for key, own in self._started.differences(config):
            place = read_document(self.path).place((SERVERS, self.server, key))
            now = "not set" if own is None else own
            raise UsageError(
                f"{place}: {key} is {now} until a restart: it cannot change while the server runs",
                hint=f"mlserve down {self.server} && mlserve up {self.server}",
            )
        return configured_models(config)

    def _specs(self) -> tuple[ModelSpec, ...]:
        specs = (
            ModelSpec(
                self._backend(model.backend),
                model.model,
                model.base_path,
                model.versions,
                model.options,
                self._poll_seconds,
                rollout=model.rollout,
            )
            for model in self._in_force
        )
        return tuple(replace(spec, width=spec.calls_at_once) for spec in specs)

    def _backend(self, name: str) -> Backend:
        """Return the backend, the same one each time: a model with another one would be loaded."""
        if name not in self._backends:
            self._backends[name] = plugins.backend(name)
        return self._backends[name]

    def _in_words(self) -> str:
        return ", ".join(f"{model.model} ({model.backend})" for model in self._in_force)

    def _write_state(self, problem: str) -> None:
        if self._state is None:
            return
        try:
            replace_state(self._state, state_text(self._in_force, problem))
        except OSError as error:
            _log.warning("%s cannot be written, so `mlserve ps` is behind: %s", self._state, error)


def _told(error: MlserveError) -> str:
    """Log the hint; return the message and the hint on one line."""
    if error.hint is None:
        return error.message
    _log.error("hint: %s", error.hint)
    return f"{error.message} (hint: {error.hint})"


def _look(path: Path) -> _Look:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
