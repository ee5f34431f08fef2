"""Who is asked what was answered already: a version, the version in use, or another server."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from mlserve.artifact import Artifact, version_folder
from mlserve.background import run_on_daemon_thread
from mlserve.credentials import read_token
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, NotFound, Unavailable
from mlserve.server.engine.beside import ask_beside
from mlserve.server.models.folders import Fingerprint, fingerprint
from mlserve.server.models.loading import LoadedVersion, as_load_error
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes.pool import RunnerProcesses
from mlserve.server.rollout.mirror import Question
from mlserve.server.rollout.tally import Arrays
from mlserve.server.tensors import Array
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE
from mlserve.wire.rollouts import RolloutState

if TYPE_CHECKING:
    from mlserve.client import Client
    from mlserve.client.endpoint import Api

_log = logging.getLogger(__name__)
_LOWEST = 19
"""By how much its process gives way to others for a CPU: as far as the system goes."""
_SHORTEST_PAUSE = 0.05
"""Seconds between two looks at the files of a version, whatever is due."""
_FIRST_RETRY, _LONGEST_RETRY = 60.0, 3600.0
"""Seconds until a version that could not be loaded is tried again: twice as long each time."""


class VersionInProcess:
    """A version in a process of its own, on one CPU thread, behind all others of the machine.

    It may use up memory, hang or die: the server goes on without it. `on_load` is called whenever
    it has been loaded. All methods are for the event loop's thread.
    """

    def __init__(
        self,
        source: ModelSpec,
        version: int,
        settings: ServerSettings,
        on_load: Callable[[], None],
    ) -> None:
        """Describe it; nothing is started yet."""
        self.state = RolloutState.LOADING
        self.error = ""
        """Why it could not be loaded, the last time that it was tried."""
        self._settings = settings
        self._version = version
        # The policy is that of the versions that answer; the process loads this one by its number.
        options = replace(source.options, threads=1, processes=1)
        signed_by = settings.require_signature or source.signed_by
        self._source = replace(source, options=options, signed_by=signed_by)
        self._pool: RunnerProcesses | None = None
        self._loaded: LoadedVersion | None = None
        self._on_load = on_load
        self._tries = _Tries()
        self._asking: set[asyncio.Task[dict[str, Array]]] = set()
        self._closing = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked."""
        return self._loaded is not None and self._loaded.is_alive

    async def follow(self) -> None:
        """Load the version, and again when its files have changed or some time after a failure.

        Returns once it is closed. What goes wrong is logged, and its `error`.
        """
        before: Fingerprint | None = None
        while not self._closing.is_set():
            now = await run_on_daemon_thread(self._look)
            is_away = self._loaded is not None and not now  # such as on a share that is down
            if before in (None, now) and not is_away and self._tries.is_due(now):
                await self._load(now)
            before = now
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._pause())

    async def _load(self, files: Fingerprint) -> None:
        what = f"version {self._version} of {self._source.model}, the shadow,"
        await self._end()
        self.state = RolloutState.LOADING
        try:
            pool, artifact = await run_on_daemon_thread(self._open)
        except MlserveError as error:
            self.state, self.error = RolloutState.FAILED, error.message
            seconds = self._tries.failed(files)
            again = f"it is tried again in {seconds:g} s, and once its files have changed"
            _log.error("%s is not asked: %s; %s", what, error.message, again)
            return
        pool.attach()
        self._pool = pool
        if self._closing.is_set():
            await self._end()
            return
        self._loaded = LoadedVersion(artifact, pool, 1, pool)
        self.state, self.error = RolloutState.RUNNING, ""
        self._tries.succeeded(files)
        _log.info("%s is asked beside", what)
        self._on_load()

    async def ask(self, question: Question, deadline: Deadline) -> Arrays:
        """Return its outputs. Raises MlserveError."""
        if self._loaded is None:
            raise Unavailable("it is not loaded")
        kept = question.kept
        asked = self._loaded, kept.signature, kept.inputs, deadline, self._settings
        asking = asyncio.create_task(ask_beside(*asked))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        await asyncio.wait((asking,))
        if asking.cancelled():
            raise Unavailable("its process was ended meanwhile")
        return asking.result()

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._closing.set()
        await self._end()

    async def _end(self) -> None:
        pool, self._pool, self._loaded = self._pool, None, None
        for asking in self._asking:  # nothing will answer them
            asking.cancel()
        if pool is not None:
            await pool.end()

    def _pause(self) -> float | None:
        """Return the seconds until the next look; None if there is none."""
        pauses = [self._source.poll_seconds] if self._source.poll_seconds > 0 else []
        if self._loaded is None:
            pauses.append(max(0.0, self._tries.retry_at - time.monotonic()))
        return max(_SHORTEST_PAUSE, min(pauses)) if pauses else None

    def _look(self) -> Fingerprint:
        """Return what the version folder holds; nothing if it is not there."""
        try:
            return fingerprint(version_folder(self._source.base_path, self._version))
        except OSError:
            return frozenset()

    def _open(self) -> tuple[RunnerProcesses, Artifact]:
        source, version = self._source, self._version
        log_format = self._settings.log_format
        pool = RunnerProcesses(source, version, 1, log_format, lambda: None, _LOWEST)
        with as_load_error(source, version):
            if not version_folder(source.base_path, version).is_dir():
                raise NotFound(f"{source.base_path} has no version {version}")
            artifact = Artifact.open(source.base_path, source.model, version)
            pool.start()
        return pool, artifact


class _Tries:
    """The last try to load a version: what its folder held then, and when to try that again."""

    def __init__(self) -> None:
        self.retry_at = 0.0
        """On the monotonic clock; infinite for what was loaded."""
        self._files: Fingerprint | None = None
        self._delay = _FIRST_RETRY

    def is_due(self, files: Fingerprint) -> bool:
        """Return whether to load what the folder holds now."""
        return files != self._files or time.monotonic() >= self.retry_at

    def failed(self, files: Fingerprint) -> float:
        """Take note of a failure; return the seconds until the next try."""
        is_same = files == self._files
        self._delay = min(_LONGEST_RETRY, 2 * self._delay) if is_same else _FIRST_RETRY
        self._files, self.retry_at = files, time.monotonic() + self._delay
        return self._delay

    def succeeded(self, files: Fingerprint) -> None:
        """Take note of a version that was loaded."""
        self._files, self.retry_at = files, math.inf


class VersionInUse:
    """The version that answers requests which name none, where it is."""

    is_ready = True

    def __init__(self, models: Models, model: str, settings: ServerSettings) -> None:
        self._models = models
        self._model = model
        self._settings = settings

    async def ask(self, question: Question, deadline: Deadline) -> Arrays:
        """Return its outputs. Raises MlserveError."""
        base = self._models.base_of(self._model)
        if base is None or base.fault is not None:
            raise Unavailable(f"no version of {self._model} answers now")
        kept = question.kept
        with base.lease() as loaded:
            return await ask_beside(loaded, kept.signature, kept.inputs, deadline, self._settings)


class OtherServer:
    """Another server, which has a model of the same name; it sheds these calls first, if it can."""

    is_ready = True

    def __init__(self, endpoint: str, model: str, token_file: Path | None) -> None:
        """Read the token. Raises UsageError for a file that cannot be read, and a bad endpoint."""
        # The client is heavy, and most servers have no shadow.
        from mlserve.client.endpoint import Endpoint

        Endpoint.parse(endpoint)
        self._endpoint = endpoint
        self._model = model
        self._token = (
            None if token_file is None else read_token(token_file, "shadow_token_file").decode()
        )
        self._clients: dict[Api | None, Client] = {}

    async def ask(self, question: Question, deadline: Deadline) -> Arrays:
        """Return its outputs. Raises MlserveError."""
        return await run_on_daemon_thread(self._infer, question, deadline)

    async def close(self) -> None:
        """Close the connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await run_on_daemon_thread(client.close)

    def _infer(self, question: Question, deadline: Deadline) -> Arrays:
        kept = question.kept
        signature = None if kept.signature == DEFAULT_SIGNATURE else kept.signature
        client = self._client(question.api)
        outputs = client.infer(dict(kept.inputs), signature=signature, timeout=deadline)
        return cast("dict[str, Any]", dict(outputs))

    def _client(self, api: str) -> Client:
        """Return a client that speaks the API of the request, or one that the server knows."""
        from mlserve.client import Client
        from mlserve.client.endpoint import Api
        from mlserve.client.retries import ONCE

        spoken = cast("Api", api) if api in get_args(Api) else None
        if spoken not in self._clients:
            self._clients[spoken] = Client(
                self._endpoint,
                model=self._model,
                api=spoken,
                token=self._token,
                retries=ONCE,
                priority="sheddable",
            )
        return self._clients[spoken]
