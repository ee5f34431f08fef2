"""The versions of the served model: loads them, follows their folders, leases them to requests.

Version folders are followed by polling. As in TensorFlow Serving:

- a new version is loaded and warmed while the old one serves; the switch is one assignment, and the
  old one is unloaded when its last request has ended;
- a version folder that appears, or changes, is loaded once two looks have found it the same: it may
  be copied file by file. What is there when the server starts is loaded at once;
- a version without a manifest does not come to be served while a lower one has a manifest: it is
  not whole yet;
- a version that fails to load goes to the state END with its error, the old one serves on, and it
  is tried again as often as `Retries` says, and then only when its folder has changed;
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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve.artifact import MANIFEST_NAME, folders_by_version, version_folder
from mlserve.errors import MlserveError, NotFound, PluginError, Unavailable
from mlserve.server.models.loading import LoadedVersion, open_version
from mlserve.server.models.versions import (
    Fingerprint,
    ModelSpec,
    NotServed,
    State,
    VersionChoice,
    VersionStatus,
    fingerprint,
    first_versions,
    unfinished_versions,
    unknown_label,
)
from mlserve.threads import in_daemon_thread

_log = logging.getLogger(__name__)

_AWAY_SECONDS = 0.1  # between looks at a folder that cannot be read, however much is due
REMIND_SECONDS = 60.0
"""How often the log says again that a model has no version yet."""


@dataclass(slots=True)
class _Failure:
    """A version that failed to load: what its folder was like, and when to try again."""

    fingerprint: Fingerprint
    attempts: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class _Look:
    """What the base path holds at one moment.

    `present` has the fingerprints of the versions that are followed, and None for the others.
    `unfinished` are the versions that are not served for want of a manifest.
    """

    present: Mapping[int, Fingerprint | None]
    unfinished: tuple[int, ...] = ()

    @property
    def whole(self) -> tuple[int, ...]:
        """The versions that may be served."""
        return tuple(version for version in self.present if version not in self.unfinished)

    def is_settled(self, version: int, before: _Look) -> bool:
        """Whether that version is as the look before found it, or was there and not followed."""
        if version not in before.present:
            return False
        return before.present[version] in (None, self.present[version])


class Model:
    """The versions of one model. All methods are for the event loop's thread."""

    def __init__(self, source: ModelSpec, on_change: Callable[[], None]) -> None:
        self.model = source.model
        self.backend = source.backend.name
        self.was_tried = asyncio.Event()
        self._source = source
        self._on_change = on_change
        self._loaded: dict[int, LoadedVersion] = {}
        self._loaded_as: dict[int, Fingerprint] = {}
        self._last_look = _Look({})
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, _Failure] = {}
        self._absence: MlserveError | None = None
        self._unloading: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._can_read_base = True
        self._doubles: frozenset[int] = frozenset()
        self._is_loading = False
        self.is_closed = False
        self.is_unloaded = False
        """Whether its versions were unloaded by request, until they are loaded by request."""

    @property
    def source(self) -> ModelSpec:
        """What is served, as it was asked for last."""
        return self._source

    @property
    def is_ready(self) -> bool:
        """Whether a request that names no version would be served."""
        return bool(self._loaded)

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a version, which cannot be interrupted."""
        return self._is_loading

    @property
    def problem(self) -> MlserveError:
        """Why no version is served, when none is."""
        errors = [status.error for status in self._statuses.values() if status.error is not None]
        return errors[-1] if errors else self._absence or self._not_served(None)

    async def find(self) -> None:
        """Looks for the first versions, which are then in the state START.

        Raises NotFound when there is none, unless the model awaits its versions.
        """
        base_path, policy = self._source.base_path, self._source.policy
        try:
            wanted, present = await in_daemon_thread(lambda: first_versions(base_path, policy))
        except NotFound as error:
            self._absence = error
            if not self._source.awaits_versions:
                self.was_tried.set()
                raise
            return
        self._last_look = _Look(dict.fromkeys(present))
        for version in wanted:
            self._set(version, State.START)

    async def load(self) -> None:
        """Loads the versions that `find` found, and returns when one is served.

        Raises the last one's error when none of them can be loaded. `was_tried` is set after the
        first attempt.
        """
        try:
            await self._update()
        finally:
            self.was_tried.set()
        remind_at = 0.0
        while not self._loaded and not self.is_closed and not self.is_unloaded:
            pause = self._pause()
            if self._has_given_up or pause is None:
                raise self.problem
            if time.monotonic() >= remind_at:
                _log.warning("waiting for a version of %s: %s", self.model, self.problem)
                remind_at = time.monotonic() + REMIND_SECONDS
            await asyncio.sleep(pause)
            await self._update()

    async def follow(self) -> None:
        """Follows the version folders for ever, or returns at once when polling is off."""
        while not self.is_closed and (pause := self._pause()) is not None:
            await asyncio.sleep(pause)
            try:
                await self._update()
            except Exception:  # noqa: BLE001 - the model that is served must not stop
                _log.exception(
                    "looking for versions of %s failed; the next look may succeed", self.model
                )

    async def change(self, source: ModelSpec) -> None:
        """Serves the versions and knows the labels of `source`, which is the same model.

        The versions are loaded as they are now: whoever asks for them has put them there.
        """
        self._source = source
        await self._update(trusts_what_is_there=True)

    async def load_now(self) -> None:
        """Looks for versions now and loads those that are wanted, also after `unload`.

        Raises the error of a version that cannot be loaded, and Unavailable where there is none.
        """
        async with self._changing:
            self.is_unloaded = False
            self._failed.clear()
            look = await self._follow_once(trusts_what_is_there=True)
        for version in () if look is None else self._source.policy.wanted(look.whole):
            error = self._statuses[version].error if version in self._statuses else None
            if error is not None:
                raise error
        if not self._loaded:
            raise Unavailable(
                f"{self.model} has no version in {self._source.base_path}",
                hint="export one, or put one into a folder named after a number",
            )

    async def unload(self) -> None:
        """Unloads every version once nothing uses it; none is loaded until `load_now`."""
        async with self._changing:
            self.is_unloaded = True
            self._failed.clear()
        await self._unload_all()

    async def close(self) -> None:
        """Unloads every version once nothing uses it."""
        async with self._changing:
            self.is_closed = True
        await self._unload_all()

    async def _unload_all(self) -> None:
        for version in list(self._loaded):
            self._unload(version)
        self._on_change()
        if self._unloading:
            await asyncio.wait(self._unloading)  # gather would cancel them where it is cancelled

    def lease(self, choice: VersionChoice) -> LoadedVersion:
        """The version to answer a request with, to be released.

        Raises NotFound, Unavailable while it is loading, and InvalidInput for an unknown label.
        """
        version = self._number(choice)
        wanted = max(self._loaded, default=None) if version is None else version
        loaded = None if wanted is None else self._loaded.get(wanted)
        if loaded is None:
            raise self._not_served(version)
        return loaded.lease()

    def knows(self, version: int) -> bool:
        """Whether that version is served, or was or is to be."""
        return version in self._statuses

    def statuses(self, choice: VersionChoice = None) -> list[VersionStatus]:
        """The states of all versions, or of one, the newest first. Raises NotFound."""
        version = self._number(choice)
        found = [s for v, s in sorted(self._statuses.items(), reverse=True) if version in (None, v)]
        if not found:
            what = "any versions" if version is None else f"version {version}"
            raise NotFound(f"Could not find {what} of model {self.model}")
        return found

    def _number(self, choice: VersionChoice) -> int | None:
        if not isinstance(choice, str):
            return choice
        if choice not in self._source.labels:
            known = ", ".join(sorted(self._source.labels)) or "none"
            raise unknown_label(choice, hint=f"labels of {self.model}: {known}")
        return self._source.labels[choice]

    @property
    def _has_given_up(self) -> bool:
        return bool(self._failed) and not any(map(self._is_tried_again, self._failed.values()))

    def _is_tried_again(self, failure: _Failure) -> bool:
        return failure.attempts <= self._source.retries.times

    def _pause(self) -> float | None:
        """Seconds until the next look or attempt; None when there is none."""
        now, poll = time.monotonic(), self._source.poll_seconds
        times = [f.retry_at - now for f in self._failed.values() if self._is_tried_again(f)]
        if poll > 0:
            times.append(poll)
        least = 0.0 if self._can_read_base else _AWAY_SECONDS
        return max(least, min(times)) if times else None

    async def _update(self, *, trusts_what_is_there: bool = False) -> None:
        async with self._changing:
            if not self.is_unloaded:
                await self._follow_once(trusts_what_is_there=trusts_what_is_there)

    async def _follow_once(self, *, trusts_what_is_there: bool) -> _Look | None:
        """Looks at the base path and serves what it finds; for a caller that holds `_changing`."""
        look = await in_daemon_thread(self._look)
        if look is None or self.is_closed:
            return None
        before, self._last_look = self._last_look, look
        if trusts_what_is_there:
            before = _Look(dict.fromkeys(look.present))
        self._show_waiting(look)
        await self._reconcile(look, before)
        return look

    def _look(self) -> _Look | None:
        """What is on disk now; None when the base path cannot be read."""
        base_path, policy = self._source.base_path, self._source.policy
        try:
            folders = folders_by_version(base_path)
        except OSError as error:
            if self._can_read_base:
                _log.warning("%s: the versions stay as they are until it can be read", error)
            self._can_read_base = False
            return None
        self._can_read_base = True
        self._tell_of_doubles(folders)
        present = tuple(folders)
        unfinished = set(unfinished_versions(base_path, policy, present)) - set(self._loaded)
        look = _Look(dict.fromkeys(present), tuple(sorted(unfinished)))
        followed = policy.wanted(look.whole)
        prints = {version: fingerprint(self._folder(version)) for version in followed}
        return replace(look, present={**look.present, **prints})

    def _tell_of_doubles(self, folders: Mapping[int, Sequence[str]]) -> None:
        """Says once which folder counts where several have the number of one version."""
        doubles = {version: names for version, names in folders.items() if len(names) > 1}
        for version, (counts, *others) in doubles.items():
            if version not in self._doubles:
                _log.warning(
                    "%s: version %d is loaded from %s, and %s is ignored",
                    *(self.model, version, counts, ", ".join(others)),
                )
        self._doubles = frozenset(doubles)

    def _show_waiting(self, look: _Look) -> None:
        """Says once of each version that is not loaded yet why it waits, and forgets the gone."""
        for version, status in list(self._statuses.items()):
            if status.state is State.START and version not in look.present:
                self._set(version, State.END)
        for version in look.unfinished:
            if not self._waits(version):
                error = _no_manifest(self._folder(version))
                _log.warning("version %d is not served: %s", version, error)
                self._set(version, State.START, error)
        for version in self._source.policy.wanted(look.whole):
            if version not in self._statuses:
                _log.info("version %d of %s is new: waiting for all its files", version, self.model)
                self._set(version, State.START)

    def _waits(self, version: int) -> bool:
        status = self._statuses.get(version)
        return status is not None and status.state is State.START

    async def _reconcile(self, look: _Look, before: _Look) -> None:
        wanted = self._source.policy.wanted(look.whole)
        self._failed = {v: failure for v, failure in self._failed.items() if v in wanted}
        for version in wanted:
            found = look.present[version]
            assert found is not None, "every version that is wanted was looked at"
            if look.is_settled(version, before) and self._is_worth_loading(version, found):
                await self._load(version, found)
        if not wanted or any(version in self._loaded for version in wanted):
            for version in set(self._loaded) - set(wanted):
                self._unload(version)

    def _is_worth_loading(self, version: int, found: Fingerprint) -> bool:
        """Whether a version is new, looks different now, or failed and is to be tried again."""
        failure = self._failed.get(version)
        if failure is not None:
            return self._is_due(failure) or failure.fingerprint != found
        return self._loaded_as.get(version) != found

    def _is_due(self, failure: _Failure) -> bool:
        return self._is_tried_again(failure) and failure.retry_at <= time.monotonic()

    async def _load(self, version: int, found: Fingerprint) -> None:
        """Loads a version, also one that is served as its files were before they changed."""
        _log.info("loading version %d of %s", version, self.model)
        old = self._loaded.get(version)
        if old is None:
            self._set(version, State.LOADING)
        try:
            loaded = await self._open(version)
        except MlserveError as error:
            _log.error("version %d is not served: %s", version, error)
            self._note_failure(version, found, error)
            if old is None:
                self._set(version, State.END, error)
            return
        self._failed.pop(version, None)
        self._loaded[version], self._loaded_as[version] = loaded, found
        self._set(version, State.AVAILABLE)
        _log.info("version %d of %s is available", version, self.model)
        if old is not None:
            self._retire(old)

    async def _open(self, version: int) -> LoadedVersion:
        self._is_loading = True
        try:
            loaded = await in_daemon_thread(lambda: open_version(self._source, version))
        except MlserveError:
            self._is_loading = False
            raise
        self._is_loading = False  # but not where the wait for it was cancelled: it loads on
        return loaded

    def _note_failure(self, version: int, found: Fingerprint, error: MlserveError) -> None:
        before = self._failed.get(version)
        attempts = 1 if before is None or before.fingerprint != found else before.attempts + 1
        if isinstance(error, PluginError):
            attempts = (
                self._source.retries.times + 1
            )  # what is not installed does not come by itself
        retry_at = time.monotonic() + self._source.retries.seconds
        self._failed[version] = failure = _Failure(found, attempts, retry_at)
        if self._is_tried_again(failure):
            _log.info("version %d is tried again in %g s", version, self._source.retries.seconds)

    def _unload(self, version: int) -> None:
        loaded = self._loaded.pop(version)
        del self._loaded_as[version]
        self._set(version, State.UNLOADING)
        self._retire(loaded)

    def _retire(self, loaded: LoadedVersion) -> None:
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
        return version_folder(self._source.base_path, version)

    def _not_served(self, version: int | None) -> MlserveError:
        if self.is_unloaded:
            return Unavailable(
                f"{self.model} is unloaded, as it was asked for",
                hint=f"load it: POST /v2/repository/models/{self.model}/load",
            )
        statuses = self._statuses
        asked = list(statuses.values()) if version is None else [statuses.get(version)]
        waiting = [s.error for s in asked if s is not None and s.state is State.START and s.error]
        if waiting:
            return waiting[-1]
        if any(s is not None and s.state in (State.START, State.LOADING) for s in asked):
            what = self.model if version is None else f"version {version} of {self.model}"
            return _loading(what)
        if self._absence is None and not statuses and not self.was_tried.is_set():
            return _loading(self.model)
        if self._absence is not None and not statuses:
            return Unavailable(f"{self.model} has no version yet: {self._absence}")
        failed = next((f": {s.error}" for s in asked if s is not None and s.error), "")
        served = ", ".join(str(v) for v in sorted(self._loaded)) or "none"
        what = f"{'version' if version is None else f'version {version}'} of {self.model}"
        return NotServed(self.model, version, f"the server has no {what}{failed}; served: {served}")


def _loading(what: str) -> Unavailable:
    return Unavailable(f"{what} is loading", hint="wait until `mlserve status` is ready")


def _no_manifest(folder: Path) -> Unavailable:
    return Unavailable(
        f"{folder} has no {MANIFEST_NAME} yet, and a version before it has one",
        hint="it is served once the whole version is copied; a model that mlserve did not export "
        "belongs in the folder of another model",
    )
