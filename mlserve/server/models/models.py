"""The models of a server by name: lease their versions, and change them without downtime.

    serve(models): new models are loaded, and changed ones too while the old ones serve on; then
                   those that are no longer named are unloaded, each after its last request.

A model that differs only in its policy or its labels keeps its loaded versions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from mlserve.errors import MlserveError, ModelLoadFailed, Unavailable, shortened
from mlserve.server.models.loading import LoadedVersion, Open, open_version
from mlserve.server.models.model import Model
from mlserve.server.models.versions import (
    LoadStatus,
    ModelSpec,
    NotServed,
    State,
    VersionChoice,
    unknown_label,
)
from mlserve.store import VersionPolicy

_log = logging.getLogger(__name__)

_MOST_DEPARTED = 1000
"""How many models that are no longer served are remembered."""


class Models:
    """The models of a server by name. All methods are for the event loop's thread."""

    def __init__(self, on_change: Callable[[], None], open_: Open = open_version) -> None:
        self._on_change = on_change
        self._open_version = open_
        self._models: dict[str, Model] = {}
        self._successors: dict[str, Model] = {}
        self._awaited: set[str] = set()
        self._has_begun = False
        self._has_started = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[Model] = set()
        self._departed: dict[str, Model] = {}
        self._changing = asyncio.Lock()
        self._broken: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models that are served or about to be."""
        return tuple(sorted(self._models))

    @property
    def awaited(self) -> tuple[str, ...]:
        """The models that the server needs in order to be ready.

        A model added while the server runs counts only once it has been available, as the others
        are served as before until then. A model unloaded by request does not count, unless all
        were.
        """
        loaded = {name for name in self._awaited if not self._models[name].is_unloaded}
        return tuple(sorted(loaded or self._awaited))

    @property
    def is_ready(self) -> bool:
        """Whether a request to each awaited model would be served; False before `begin`."""
        return self._has_begun and all(self._models[name].is_ready for name in self.awaited)

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a version, which cannot be interrupted."""
        everything = (*self._models.values(), *self._successors.values(), *self._leaving)
        return any(model.is_loading for model in everything)

    async def begin(self, sources: Sequence[ModelSpec]) -> None:
        """Set the first models; `run` loads them.

        Raises NotFound for one that has no version and does not await any.
        """
        for source in sources:
            self._models[source.model] = Model(source, self._note_change, self._open_version)
            self._awaited.add(source.model)
        self._has_begun = True
        for model in list(self._models.values()):
            await model.find()
        self._has_started = not sources

    async def run(self) -> NoReturn:
        """Load the first models and follow all models from then on.

        Raises the error of a first model when none of its versions can be loaded.
        """
        for model in self._models.values():
            self._start(self._load_first(model))
        try:
            await self._broken
        finally:
            for task in self._tasks:
                task.cancel()
        raise AssertionError  # `_broken` only ever raises

    async def serve(self, sources: Sequence[ModelSpec]) -> None:
        """Serve exactly these models; return once each new one is loaded or has failed.

        Raises ModelLoadFailed, once the others are served, naming the models that are not.
        """
        await asyncio.shield(self._start(self._serve(sources)))

    async def load(self, model: str) -> None:
        """Look for new versions of a model now, and load it if it was unloaded.

        Raises NotFound, and the error of a version that cannot be loaded. The work goes on even if
        the caller stops waiting.
        """
        load = self._find(model).load_now
        _log.info("loading %s, as a client asked", model)
        await asyncio.shield(self._start(load()))

    async def unload(self, model: str) -> None:
        """Unload the versions of a model, each after its last request; polling loads none again.

        Raises NotFound. The work goes on even if the caller stops waiting.
        """
        unload = self._find(model).unload
        _log.info("unloading %s, as a client asked", model)
        await asyncio.shield(self._start(unload()))

    async def close(self) -> None:
        """Unload everything once nothing uses it."""
        everything = (*self._models.values(), *self._successors.values(), *self._leaving)
        await asyncio.gather(*(model.close() for model in everything))

    def lease(self, model: str, version: VersionChoice) -> LoadedVersion:
        """Lease the version that answers a request; the caller ends the lease.

        Raises NotServed, Unavailable while it is loading, and InvalidInput for an unknown label.
        Until the first models are there, an unknown model is Unavailable too: many clients wait for
        a server by asking for a model that it does not have until it says so.
        """
        if model not in self._models and not self._has_started:
            raise Unavailable(
                "the server is loading its first models",
                hint="wait until `mlserve status` is ready",
            )
        return self._find(model, version).lease(version)

    def latest_for_zero(self, model: str, version: VersionChoice) -> VersionChoice:
        """Return the version, or None (the latest) for a 0 that the model does not have.

        Clients of OpenVINO Model Server use TensorFlow Serving's API and send version 0 for the
        latest one. A version numbered 0 is still served.
        """
        if version == 0 and model in self._models and not self._models[model].knows(0):
            return None
        return version

    def statuses(self, model: str, version: VersionChoice = None) -> list[LoadStatus]:
        """Return the states of a model's versions, or of one, newest first. Raises NotFound."""
        return self._find(model).statuses(version)

    def known_statuses(self, model: str, version: VersionChoice = None) -> list[LoadStatus]:
        """Like `statuses`, but also for a model no longer served: its versions are at END."""
        if model not in self._models and model in self._departed:
            return self._departed[model].statuses(version)
        return self.statuses(model, version)

    def policy_of(self, model: str) -> VersionPolicy:
        """Return which versions of the model are served. Raises NotFound."""
        return self._find(model).source.policy

    def is_unloaded(self, model: str) -> bool:
        """Return whether the model was unloaded by request. Raises NotFound."""
        return self._find(model).is_unloaded

    def backend_of(self, model: str) -> str:
        """Return the name of the backend that serves it. Raises NotFound."""
        return self._find(model).backend

    def source_of(self, model: str) -> ModelSpec:
        """Return what is served of the model, as last requested. Raises NotFound."""
        return self._find(model).source

    def base_of(self, model: str) -> LoadedVersion | None:
        """Return the version that answers a request which names none; None if there is none."""
        return self._models[model].base if model in self._models else None

    def beside_of(self, model: str) -> LoadedVersion | None:
        """Return the version that is served beside the others, if it would answer now."""
        return self._models[model].beside if model in self._models else None

    def labels_of(self, model: str) -> Mapping[str, int]:
        """Return the labels of its versions; none for a model that is not served."""
        return self._models[model].source.labels if model in self._models else {}

    def loaded(self) -> Iterator[LoadedVersion]:
        """Yield every version that is loaded, by model and number."""
        for name in self.names:
            yield from sorted(self._models[name].loaded, key=lambda loaded: loaded.version)

    def is_available(self, model: str, version: int) -> bool:
        """Return whether that version would be served."""
        statuses = self._models[model].statuses() if model in self._models else []
        return any(s.version == version and s.state is State.AVAILABLE for s in statuses)

    def _find(self, model: str, version: VersionChoice = None) -> Model:
        if model not in self._models:
            if isinstance(version, str):
                raise unknown_label(version)
            names = ", ".join(repr(name) for name in self.names) or "no model"
            raise NotServed(
                model,
                version,
                f"Could not find any versions of model {shortened(model)}; this server has {names}",
                hint="name the model with --model",
            )
        return self._models[model]

    async def _serve(self, sources: Sequence[ModelSpec]) -> None:
        async with self._changing:
            wanted = {source.model: source for source in sources}
            fresh = [source for source in sources if not self._keeps(source)]
            started = [self._add(source) for source in fresh]
            for name in set(self._successors) - {source.model for source in fresh}:
                self._leave(self._successors.pop(name))
            kept = [self._models[source.model] for source in sources if source not in fresh]
            changed = [model for model in kept if model.source != wanted[model.name]]
            await asyncio.gather(
                *(model.change(wanted[model.name]) for model in changed),
                *(model.was_tried.wait() for model in started),
            )
            for name in set(self._models) - set(wanted):
                self._awaited.discard(name)
                self._depart(self._models.pop(name))
            self._note_change()
            _require_ready([*started, *changed])

    def _keeps(self, source: ModelSpec) -> bool:
        """Return whether the model loaded, or loading as a successor, fits that source."""
        now = self._models.get(source.model)
        return now is not None and source.differs_in_choice_only(now.source)

    def _add(self, source: ModelSpec) -> Model:
        """Start loading a model; it replaces the one of the same name."""
        model = self._successors.get(source.model)
        if model is not None and model.source == source:
            return model
        if model is not None:
            self._leave(model)
        model = Model(source, self._note_change, self._open_version)
        place = self._successors if source.model in self._models else self._models
        place[source.model] = model
        self._start(self._load_later(model))
        return model

    async def _load_first(self, model: Model) -> None:
        try:
            await model.load()
        except Exception as error:  # noqa: BLE001 - `run` raises it
            if not model.is_closed and not self._broken.done():
                self._broken.set_exception(error)
            return
        await model.follow()

    async def _load_later(self, model: Model) -> None:
        try:
            await model.find()
            await model.load()
        except MlserveError as error:
            _log.error("%s is not served: %s", model.name, error)
        self._note_change()
        await model.follow()

    def _note_change(self) -> None:
        """Put models that are ready in their places, then report the change."""
        for name, successor in list(self._successors.items()):
            if successor.is_ready and successor.was_tried.is_set():
                self._leave(self._models[name])
                self._models[name] = self._successors.pop(name)
        self._awaited |= {name for name, model in self._models.items() if model.is_ready}
        self._has_started |= self.is_ready
        self._on_change()

    def _depart(self, model: Model) -> None:
        """Let go of a model that is no longer served; its statuses stay known."""
        self._departed.pop(model.name, None)
        self._departed[model.name] = model
        for name in list(self._departed)[:-_MOST_DEPARTED]:
            del self._departed[name]
        self._leave(model)

    def _leave(self, model: Model) -> None:
        self._leaving.add(model)
        self._start(self._close(model))

    async def _close(self, model: Model) -> None:
        await model.close()
        self._leaving.discard(model)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, MlserveError):
            _log.error("an unexpected error", exc_info=error)


def _require_ready(models: Sequence[Model]) -> None:
    missing = [model for model in models if not (model.is_ready or model.is_unloaded)]
    if missing:
        what = "; ".join(f"{model.name}: {model.problem.message}" for model in missing)
        raise ModelLoadFailed(
            f"{len(missing)} model(s) did not become available: {what}",
            hint="they are served as soon as they can be loaded; the other models are served now",
        )
