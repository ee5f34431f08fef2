"""The shadow of one model: asked what the version in use has answered, and never returned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from mlserve.errors import MlserveError
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import Job
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.server.rollout.companions import OtherServer, VersionInProcess
from mlserve.server.rollout.mirror import Mirror, Result
from mlserve.server.rollout.tally import Tally
from mlserve.server.telemetry.metrics import Metrics
from mlserve.wire.rollouts import RolloutState
from mlserve.wire.rollouts import Shadow as ShadowReport

_log = logging.getLogger(__name__)
Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that nobody waits for."""


class ModelShadow:
    """The shadow of one model. All methods are for the event loop's thread."""

    def __init__(
        self, source: ModelSpec, engine: Engine, models: Models, metrics: Metrics, start: Start
    ) -> None:
        self._source = source
        self._model = source.model
        self._engine = engine
        self._models = models
        self._metrics = metrics
        self._start = start
        self._version = source.rollout.shadow_version
        self._error = ""
        what = source.rollout.shadow if self._version is None else f"version {self._version}"
        self._asked = f"{what}"
        self._served: int | None = None
        self._tally = Tally(self._asked)
        self._companion: VersionInProcess | OtherServer | None = None
        self._mirror: Mirror | None = None

    @property
    def state(self) -> RolloutState:
        """What the shadow does now."""
        if self._is_in_use:
            return RolloutState.IN_USE
        if self._error:
            return RolloutState.FAILED
        if isinstance(self._companion, VersionInProcess):
            return self._companion.state
        return RolloutState.LOADING if self._companion is None else RolloutState.RUNNING

    @property
    def _is_in_use(self) -> bool:
        base = self._models.base_of(self._model)
        return base is not None and base.version == self._version

    def look(self) -> None:
        """Start what is asked once the version in use is there; end it if it is in use itself.

        The counts begin anew beside another version in use.
        """
        base = self._models.base_of(self._model)
        if base is not None and base.version not in (self._served, self._version):
            self._served = base.version
            self._begin_anew()
        if self._is_in_use:
            if self._companion is not None:
                self._start(self._close(self._companion, self._mirror))
                self._companion = self._mirror = None
        elif self._companion is None and not self._error and base is not None:
            self._begin()

    def _begin(self) -> None:
        try:
            self._companion = self._made()
        except MlserveError as error:
            self._error = error.message
            _log.error("%s, the shadow of %s, is not asked: %s", self._asked, self._model, error)
            return
        if isinstance(self._companion, VersionInProcess):
            self._start(self._companion.follow())
        self._mirror = Mirror(self._engine, self._companion, self._tally, self._told)

    def _made(self) -> VersionInProcess | OtherServer:
        settings, source = self._engine.settings, self._source
        if self._version is not None:
            return VersionInProcess(source, self._version, settings, self._begin_anew)
        token_file = source.rollout.shadow_token_file
        return OtherServer(source.rollout.shadow or "", self._model, token_file)

    def _begin_anew(self) -> None:
        """Count from nothing: what was compared so far was another version's answers."""
        if self._mirror is None:
            self._tally.begin(self._asked)
        else:
            self._mirror.begin(self._asked)

    def entered(self, job: Job[Any]) -> None:
        """Have the work keep what it is asked, if the shadow is to be asked the same."""
        if self._mirror is not None and self._is_asked(job):
            job.work.keeps = self._mirror.wants

    def finished(self, job: Job[Any], question: Any) -> None:
        """Ask the shadow what was answered."""
        mirror = self._mirror
        if mirror is None or not mirror.is_ready or not self._is_asked(job):
            return
        if question is None:
            signature = job.work.signature
            mirror.drop("" if signature is None else signature.name)
        else:
            mirror.offer(question)

    def note_change(self) -> None:
        """Take note that there may be room to ask."""
        if self._mirror is not None:
            self._mirror.note_change()

    def report(self) -> ShadowReport:
        """Return how it stands."""
        told = self._tally.report(self._why())
        return ShadowReport(self._model, self.state, told, self._served)

    async def close(self) -> None:
        """Ask nothing more, and end what was started for it."""
        companion, mirror = self._companion, self._mirror
        self._companion = self._mirror = None
        if companion is not None:
            await self._close(companion, mirror)

    async def _close(
        self, companion: VersionInProcess | OtherServer, mirror: Mirror | None
    ) -> None:
        if mirror is not None:
            await mirror.close()
        await companion.close()

    def _is_asked(self, job: Job[Any]) -> bool:
        """Return whether the call is one of the version in use."""
        base = self._models.base_of(self._model)
        return base is not None and job.loaded is base and base.version != self._version

    def _why(self) -> str:
        if self._error or not isinstance(self._companion, VersionInProcess):
            return self._error
        return self._companion.error

    def _told(self, result: Result) -> None:
        self._metrics.shadow(self._model, result.word)
