"""Who is asked what was answered already: a version, the version in use, or another server."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from mlserve.artifact import Artifact
from mlserve.background import run_on_daemon_thread
from mlserve.credentials import read_token
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Unavailable
from mlserve.server.engine.beside import ask_beside
from mlserve.server.models.loading import LoadedVersion, as_load_error
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes.pool import RunnerProcesses
from mlserve.server.rollout.mirror import Question
from mlserve.server.rollout.tally import Arrays
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE
from mlserve.wire.rollouts import RolloutState

if TYPE_CHECKING:
    from mlserve.client import Client
    from mlserve.client.endpoint import Api

_log = logging.getLogger(__name__)
_LOWEST = 19
"""By how much its process gives way to others for a CPU: as far as the system goes."""


class VersionInProcess:
    """A version in a process of its own, on one CPU thread, behind all others of the machine.

    It may use up memory, hang or die: the server goes on without it. All methods are for the event
    loop's thread.
    """

    def __init__(self, source: ModelSpec, version: int, settings: ServerSettings) -> None:
        """Describe it; nothing is started yet."""
        self.state = RolloutState.LOADING
        self.error = ""
        self._settings = settings
        self._version = version
        # The policy is that of the versions that answer; the process loads this one by its number.
        options = replace(source.options, threads=1, processes=1)
        signed_by = settings.require_signature or source.signed_by
        self._source = replace(source, options=options, signed_by=signed_by)
        self._pool: RunnerProcesses | None = None
        self._loaded: LoadedVersion | None = None
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked."""
        return self._loaded is not None and self._loaded.is_alive and not self._is_closed

    async def load(self) -> None:
        """Start the process and load the version; what goes wrong is logged, and its `error`."""
        what = f"version {self._version} of {self._source.model}, the shadow,"
        try:
            pool, artifact = await run_on_daemon_thread(self._open)
        except MlserveError as error:
            self.state, self.error = RolloutState.FAILED, error.message
            _log.error("%s is not asked: %s", what, error.message)
            return
        pool.attach()
        self._pool = pool
        if self._is_closed:
            await pool.end()
            return
        self._loaded = LoadedVersion(artifact, pool, 1, pool)
        self.state = RolloutState.RUNNING
        _log.info("%s is asked beside", what)

    async def ask(self, question: Question, deadline: Deadline) -> Arrays:
        """Return its outputs. Raises MlserveError."""
        if self._loaded is None:
            raise Unavailable("it is not loaded")
        kept = question.kept
        return await ask_beside(self._loaded, kept.signature, kept.inputs, deadline, self._settings)

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._is_closed = True
        if self._pool is not None:
            await self._pool.end()

    def _open(self) -> tuple[RunnerProcesses, Artifact]:
        source, version = self._source, self._version
        log_format = self._settings.log_format
        pool = RunnerProcesses(source, version, 1, log_format, lambda: None, _LOWEST)
        with as_load_error(source, version):
            artifact = Artifact.open(source.base_path, source.model, version)
            pool.start()
        return pool, artifact


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
        """Read the token. Raises UsageError for a file that cannot be read."""
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
        # The client is heavy, and most servers have no shadow.
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
