"""The shadows and splits of a server's models, told of each call by the engine.

Nothing that goes wrong here may reach a call: it is logged, and the call goes its way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from mlserve.admission.verdicts import Outcome
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import Job
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.server.request import RequestRecord
from mlserve.server.rollout.mirror import Question
from mlserve.server.rollout.shadow import ModelShadow
from mlserve.server.rollout.split import ModelSplit
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.wire import rollouts as wire

_log = logging.getLogger(__name__)


class Rollouts:
    """What the models have of shadows and splits. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, models: Models, telemetry: Telemetry) -> None:
        self._engine = engine
        self._models = models
        self._telemetry = telemetry
        self._begun: dict[str, ModelSpec] = {}
        self._shadows: dict[str, ModelShadow] = {}
        self._splits: dict[str, ModelSplit] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def follow(self) -> None:
        """Begin and end what the models say now; called whenever one of them has changed."""
        if self._is_closed:
            return
        with _harmless("following the models"):
            named = {name: self._models.source_of(name) for name in self._models.names}
            for name, before in list(self._begun.items()):
                if name not in named or not _is_alike(named[name], before):
                    self._end(name)
            for name, source in named.items():
                if source.rollout.changed and name not in self._begun:
                    self._begin(name, source)
            for each in self._all():
                each.look()
        # The engine asks only where there is something to choose or to compare.
        has_any = self._shadows or self._splits
        self._engine.companion = self if has_any else None

    def choose(self, model: str, record: RequestRecord) -> int | None:
        """Return the version for a request that names none; None leaves it to the model."""
        split = self._splits.get(model)
        if split is not None and not record.is_probe:
            with _harmless("choosing a version"):
                return split.choose(record)
        return None

    def entered(self, job: Job[Any]) -> None:
        """Take note of a call that was admitted."""
        with _harmless("looking at a call"):
            for each in self._of(job):
                each.entered(job)

    def finished(self, job: Job[Any], outcome: Outcome) -> None:
        """Take note of a call whose work has ended."""
        with _harmless("looking at an answer"):
            if outcome is Outcome.ANSWERED:
                for each in self._of(job):
                    each.finished(job, _question(job))
            for one in self._all():
                one.note_change()

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """Take note of a request that has ended: an observer of the telemetry."""
        if record.arm is None:
            return
        with _harmless("counting a request"):
            split = self._splits.get(record.model)
            if split is not None:
                split.ended(record, seconds)

    def in_force(self) -> Iterator[tuple[str, int, float, bool]]:
        """Yield each split: model, version, the share that it gets now, whether it is stopped."""
        for model, split in self._splits.items():
            yield model, split.version, split.share, split.is_stopped

    def report(self) -> wire.Rollouts:
        """Return how all of them stand."""
        return wire.Rollouts(
            tuple(each.report() for each in self._shadows.values()),
            tuple(each.report() for each in self._splits.values()),
        )

    async def close(self) -> None:
        """Ask nothing more, and end what was started for that."""
        self._is_closed = True
        self._engine.companion = None
        # What is still being loaded is not waited for: its process ends with the server's.
        closing = [task for name in list(self._begun) for task in self._end(name)]
        if closing:
            await asyncio.wait(closing)

    def _all(self) -> Iterator[ModelShadow | ModelSplit]:
        yield from self._shadows.values()
        yield from self._splits.values()

    def _of(self, job: Job[Any]) -> Iterator[ModelShadow | ModelSplit]:
        model = job.loaded.model
        if job.record.is_probe:
            return
        if model in self._shadows:
            yield self._shadows[model]
        if model in self._splits:
            yield self._splits[model]

    def _begin(self, name: str, source: ModelSpec) -> None:
        self._begun[name] = source
        served = self._engine, self._models, self._telemetry.metrics
        if source.rollout.shadow is not None:
            self._shadows[name] = ModelShadow(source, *served, self._start)
        if (rule := source.rollout.split_rule) is not None:
            self._splits[name] = ModelSplit(name, rule, *served)

    def _end(self, name: str) -> list[asyncio.Task[None]]:
        """Let go of a model's; return the tasks that see to it."""
        del self._begun[name]
        ended = self._shadows.pop(name, None), self._splits.pop(name, None)
        return [self._start(each.close()) for each in ended if each is not None]

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_alike(source: ModelSpec, before: ModelSpec) -> bool:
    """Return whether shadow and split go on, though something else about the model has changed.

    A split that was stopped stays so. A shadow that is a version is loaded anew with new options.
    """
    if source.rollout != before.rollout or source.base_path != before.base_path:
        return False
    return source.rollout.shadow_version is None or source.differs_in_choice_only(before)


def _question(job: Job[Any]) -> Question | None:
    """Return what was asked and answered; None if it was not kept."""
    kept, record = job.work.kept, job.record
    if kept is None:
        return None
    return Question(record.request_id, record.route.api, kept, kept.size, time.monotonic())


@contextmanager
def _harmless(doing: str) -> Iterator[None]:
    """Log what the block raises, and go on."""
    try:
        yield
    except Exception:  # noqa: BLE001 - no call may fail for it
        _log.exception("%s for a shadow or a split failed", doing)
