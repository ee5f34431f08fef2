"""The versions of the served model: loads them, follows their folders, leases them to requests.

Version folders are followed by polling. As in TensorFlow Serving:

- a new version is loaded and warmed while the old one serves; the switch is one assignment, and the
  old one is unloaded when its last request has ended;
- a version that fails to load goes to the state END with its error, the old one serves on, and it
  is tried again only when its folder has changed;
- when the folder of a served version goes away, the next one that the policy wants is loaded first
  (the one before it, if the policy is the latest); when no version folder is left, nothing is
  served;
- a base path that cannot be read (a network share that is away) changes nothing;
- loads follow one another, so that never more than two models of a switch are in memory: what comes
  while a version loads is seen after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlserve.artifact import Artifact
from mlserve.backend import Backend, LoadOptions
from mlserve.errors import (
    MlserveError,
    ModelLoadFailed,
    NotFound,
    PluginError,
    Unavailable,
    UsageError,
)
from mlserve.server.background import in_daemon_thread
from mlserve.server.loaded import LoadedVersion
from mlserve.server.versions import (
    State,
    VersionPolicy,
    VersionStatus,
    fingerprint,
    first_versions,
    present_versions,
)
from mlserve.server.warmup import warm_up

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What to serve: a model's name, its folder, the backend that loads it, and the policy.

    `poll_seconds` is the time between two looks at the folder; 0 never looks again.
    """

    backend: Backend
    model: str
    base_path: Path
    policy: VersionPolicy
    options: LoadOptions
    poll_seconds: float


class Repository:
    """The versions of one model. All methods are for the event loop's thread."""

    def __init__(self, source: ServedModel, on_change: Callable[[], None]) -> None:
        self.model = source.model
        self.backend = source.backend.name
        self._source = source
        self._on_change = on_change
        self._loaded: dict[int, LoadedVersion] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, frozenset[tuple[str, int, int]]] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._can_read_base = True

    @property
    def is_ready(self) -> bool:
        """Whether a request that names no version would be served."""
        return bool(self._loaded)

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a version, which cannot be interrupted."""
        return any(status.state is State.LOADING for status in self._statuses.values())

    def find(self) -> None:
        """Looks for the first versions, which are then in the state START. Raises NotFound."""
        for version in first_versions(self._source.base_path, self._source.policy):
            self._set(version, State.START)

    async def load(self) -> None:
        """Loads the versions that `find` found.

        Raises the last one's error when none of them can be loaded.
        """
        await self._reconcile(tuple(self._statuses))
        if not self._loaded:
            raise next(s.error for s in self._statuses.values() if s.error is not None)

    async def follow(self) -> None:
        """Follows the version folders for ever, or returns at once when polling is off."""
        while self._source.poll_seconds > 0:
            await asyncio.sleep(self._source.poll_seconds)
            try:
                present = await asyncio.to_thread(self._look)
                if present is not None:
                    await self._reconcile(present)
            except Exception:  # noqa: BLE001 - the model that is served must not stop
                _log.exception("following %s failed; the next look may not", self.model)

    async def close(self) -> None:
        """Unloads every version once nothing uses it."""
        for version in list(self._loaded):
            self._unload(version)
        await asyncio.gather(*self._unloading)

    def lease(self, model: str, version: int | None) -> LoadedVersion:
        """The version to answer a request with, to be released; None means the latest.

        Raises NotFound, or Unavailable while it is loading.
        """
        self._check_model(model)
        wanted = max(self._loaded, default=None) if version is None else version
        loaded = None if wanted is None else self._loaded.get(wanted)
        if loaded is None:
            raise self._not_served(version)
        return loaded.lease()

    def statuses(self, model: str, version: int | None = None) -> list[VersionStatus]:
        """The states of all versions, or of one, the newest first. Raises NotFound."""
        self._check_model(model)
        found = [s for v, s in sorted(self._statuses.items(), reverse=True) if version in (None, v)]
        if not found:
            raise NotFound(f"Could not find version {version} of model {model}")
        return found

    def _look(self) -> tuple[int, ...] | None:
        """The versions on disk now; None when the base path cannot be read."""
        try:
            present = present_versions(self._source.base_path)
        except OSError as error:
            if self._can_read_base:
                _log.warning("%s: the versions stay as they are until it can be read", error)
            self._can_read_base = False
            return None
        self._can_read_base = True
        return present

    async def _reconcile(self, present: Sequence[int]) -> None:
        wanted = self._source.policy.wanted(present)
        for version in wanted:
            if version not in self._loaded and await self._has_changed(version):
                await self._load(version)
        if not wanted or any(version in self._loaded for version in wanted):
            for version in set(self._loaded) - set(wanted):
                self._unload(version)

    async def _has_changed(self, version: int) -> bool:
        """Whether a version that failed looks different now; True for one that did not fail."""
        if version not in self._failed:
            return True
        return self._failed[version] != await asyncio.to_thread(fingerprint, self._folder(version))

    async def _load(self, version: int) -> None:
        _log.info("loading version %d of %s", version, self.model)
        self._set(version, State.LOADING)
        before = await asyncio.to_thread(fingerprint, self._folder(version))
        try:
            loaded = await in_daemon_thread(lambda: self._open(version))
        except MlserveError as error:
            _log.error("version %d is not served: %s", version, error)
            self._failed[version] = before
            self._set(version, State.END, error)
            return
        self._failed.pop(version, None)
        self._loaded[version] = loaded
        self._set(version, State.AVAILABLE)
        _log.info("version %d of %s is available", version, self.model)

    def _open(self, version: int) -> LoadedVersion:
        """Loads and warms the version; runs on a thread of its own."""
        source = self._source
        try:
            artifact = Artifact.open(source.base_path, source.model, version)
            runner = source.backend.load(artifact, source.options)
            warm_up(artifact, runner)
        except UsageError as error:  # a manifest that cannot be read
            raise ModelLoadFailed(error.message, hint=error.hint) from error
        except MlserveError:
            raise
        except ImportError as error:
            raise PluginError(
                f"the backend {source.backend.name!r} cannot be used: {error}",
                hint=source.backend.install_hint,
            ) from error
        except Exception as error:
            _log.exception("version %d of %s failed to load", version, source.model)
            raise ModelLoadFailed(
                f"version {version} failed to load: {type(error).__name__}: {error}",
                hint="the server's log has the traceback",
            ) from error
        return LoadedVersion(artifact, runner)

    def _unload(self, version: int) -> None:
        loaded = self._loaded.pop(version)
        self._set(version, State.UNLOADING)
        task = asyncio.create_task(self._finish_unload(loaded))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _finish_unload(self, loaded: LoadedVersion) -> None:
        await loaded.close()
        _log.info("version %d of %s is unloaded", loaded.version, self.model)
        if self._statuses[loaded.version].state is State.UNLOADING:  # not wanted again meanwhile
            self._set(loaded.version, State.END)

    def _set(self, version: int, state: State, error: MlserveError | None = None) -> None:
        self._statuses[version] = VersionStatus(version, state, error)
        self._on_change()

    def _folder(self, version: int) -> Path:
        return self._source.base_path / str(version)

    def _check_model(self, model: str) -> None:
        if model != self.model:
            raise NotFound(
                f"Could not find any versions of model {model}; this server has {self.model!r}",
                hint="name the model with --model",
            )

    def _not_served(self, version: int | None) -> MlserveError:
        statuses = self._statuses
        asked = list(statuses.values()) if version is None else [statuses.get(version)]
        if any(s is not None and s.state in (State.START, State.LOADING) for s in asked):
            what = self.model if version is None else f"version {version} of {self.model}"
            return Unavailable(f"{what} is loading", hint="wait until `mlserve status` is ready")
        failed = next((f": {s.error}" for s in asked if s is not None and s.error), "")
        served = ", ".join(str(v) for v in sorted(self._loaded)) or "none"
        what = "Latest" if version is None else f"version {version}"
        return NotFound(
            f"Servable not found for request: {what} of {self.model}{failed}; served: {served}"
        )
