"""The versions of one model: load them, follow their folders, lease them to requests.

Version folders are followed by polling. As in TensorFlow Serving:

- a new version is loaded and warmed up while the old one serves; the switch is one assignment, and
  the old one is unloaded when its last request has ended;
- a version folder that appears or changes is loaded once two looks have found it the same, as it
  may be copied file by file. What is there when the server starts is loaded at once;
- a version without a manifest is considered incomplete, and is not loaded, while a lower one has a
  manifest;
- a version that fails to load goes to the state END with its error, and the old one serves on. It
  is retried as often as `LoadRetries` says, and after that only when its folder has changed;
- when the folder of a served version disappears, the next one that the policy selects is loaded
  first (the one before it, if the policy is the latest); when no version folder is left, nothing is
  served;
- a pin in the base path (`mlserve.pin`) takes the place of the latest, and is followed as it
  changes: the pinned version is loaded first;
- a base path that cannot be read (such as a network share that is down) changes nothing, nor does
  the pin of a version that is not there;
- loads run one after another, so that a switch never holds more than two models in memory; changes
  during a load are seen after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from mlserve.background import run_on_daemon_thread
from mlserve.errors import MlserveError, NotFound, Unavailable
from mlserve.server.models.folders import Fingerprint, Look, VersionFolders, first_versions
from mlserve.server.models.loading import FailedVersions, LoadedVersion, Open, open_version
from mlserve.server.models.versions import (
    LoadStatus,
    ModelSpec,
    NotServed,
    State,
    VersionChoice,
    unknown_label,
)

_log = logging.getLogger(__name__)

_AWAY_SECONDS = 0.1  # minimum between looks at an unreadable folder, whatever is due
REMIND_SECONDS = 60.0
"""How often, in seconds, the log repeats that a model has no version yet."""


class Model:
    """The versions of one model. All methods are for the event loop's thread."""

    def __init__(
        self, source: ModelSpec, on_change: Callable[[], None], open_: Open = open_version
    ) -> None:
        self.name = source.model
        self.backend = source.backend.name
        self.was_tried = asyncio.Event()
        self._source = source
        self._on_change = on_change
        self._open_version = open_
        self._loaded: dict[int, LoadedVersion] = {}
        self._loaded_as: dict[int, Fingerprint] = {}
        self._folders = VersionFolders(source.model, source.base_path)
        self._last_look = Look({})
        self._beside: int | None = None
        self._statuses: dict[int, LoadStatus] = {}
        self._failed = FailedVersions(source.retries)
        self._absence: MlserveError | None = None
        self._unloading: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._is_loading = False
        self.is_closed = False
        self.is_unloaded = False
        """Whether its versions were unloaded by request and not loaded by request since."""

    @property
    def source(self) -> ModelSpec:
        """What is served, as last requested."""
        return self._source

    @property
    def is_ready(self) -> bool:
        """Whether a request that names no version would be served."""
        return any(
            loaded.fault is None
            for version, loaded in self._loaded.items()
            if version != self._beside
        )

    @property
    def base(self) -> LoadedVersion | None:
        """The version that answers a request which names none; None if there is none now."""
        latest = self._latest()
        return None if latest is None else self._loaded[latest]

    @property
    def beside(self) -> LoadedVersion | None:
        """The version that is served beside the others; None unless it would answer now."""
        loaded = None if self._beside is None else self._loaded.get(self._beside)
        return loaded if loaded is not None and loaded.fault is None else None

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a version, which cannot be interrupted."""
        return self._is_loading

    @property
    def problem(self) -> MlserveError:
        """The reason why no version is served."""
        errors = [status.error for status in self._statuses.values() if status.error is not None]
        return errors[-1] if errors else self._absence or self._not_served(None)

    async def find(self) -> None:
        """Find the first versions, which are then in the state START.

        Raises NotFound when there is none, unless the model awaits its versions.
        """
        base_path, policy = self._source.base_path, self._source.policy
        try:
            wanted, present = await run_on_daemon_thread(first_versions, base_path, policy)
        except NotFound as error:
            self._absence = error
            if not self._source.awaits_versions:
                self.was_tried.set()
                raise
            return
        self._last_look = Look(dict.fromkeys(present))
        beside = self._source.rollout.split_version
        self._beside = beside if beside in present and beside not in wanted else None
        for version in wanted if self._beside is None else (*wanted, self._beside):
            self._set(version, State.START)

    async def load(self) -> None:
        """Load the versions that `find` found; return when one is served.

        Raises the last one's error when none of them can be loaded. `was_tried` is set after the
        first attempt.
        """
        try:
            await self._update()
        finally:
            self.was_tried.set()
        remind_at = 0.0
        while self._latest() is None and not self.is_closed and not self.is_unloaded:
            pause = self._pause()
            if self._failed.has_given_up or pause is None:
                raise self.problem
            if time.monotonic() >= remind_at:
                _log.warning("waiting for a version of %s: %s", self.name, self.problem)
                remind_at = time.monotonic() + REMIND_SECONDS
            await asyncio.sleep(pause)
            await self._update()

    async def follow(self) -> None:
        """Follow the version folders forever; return at once when polling is off."""
        while not self.is_closed and (pause := self._pause()) is not None:
            await asyncio.sleep(pause)
            try:
                await self._update()
            except Exception:  # noqa: BLE001 - the model that is served must not stop
                _log.exception(
                    "looking for versions of %s failed; the next look may succeed", self.name
                )

    async def change(self, source: ModelSpec) -> None:
        """Apply the versions and labels of `source`, which is the same model.

        The versions are loaded as they are now, since the request for them means that they are in
        place.
        """
        self._source = source
        await self._update(trusts_what_is_there=True)

    async def load_now(self) -> None:
        """Look for versions now and load those that are wanted, even after `unload`.

        Raises the error of a version that cannot be loaded, and Unavailable when there is none.
        """
        async with self._changing:
            self.is_unloaded = False
            self._failed.keep(())
            look = await self._follow_once(trusts_what_is_there=True)
        for version in () if look is None else look.primary:
            error = self._statuses[version].error if version in self._statuses else None
            if error is not None:
                raise error
        if not self._loaded:
            raise Unavailable(
                f"{self.name} has no version in {self._source.base_path}",
                hint="export one, or put one into a folder named after a number",
            )

    async def unload(self) -> None:
        """Unload every version once nothing uses it; none is loaded until `load_now`."""
        async with self._changing:
            self.is_unloaded = True
            self._failed.keep(())
        await self._unload_all()

    async def close(self) -> None:
        """Unload every version once nothing uses it."""
        async with self._changing:
            self.is_closed = True
        await self._unload_all()

    async def _unload_all(self) -> None:
        for version in list(self._loaded):
            self._unload(version)
        self._on_change()
        if self._unloading:
            await asyncio.wait(self._unloading)  # gather would cancel them when it is cancelled

    def lease(self, choice: VersionChoice) -> LoadedVersion:
        """Lease the version that answers a request; the caller ends the lease.

        Raises NotFound, Unavailable while it is loading or while it does not give the answers of
        its certificate, and InvalidInput for an unknown label.
        """
        version = self._number(choice)
        wanted = self._latest() if version is None else version
        loaded = None if wanted is None else self._loaded.get(wanted)
        if loaded is None:
            raise self._not_served(version)
        fault = loaded.fault
        if fault is not None:
            raise fault
        return loaded.lease()

    def _latest(self) -> int | None:
        """Return the latest loaded version whose answers are right, or else the latest.

        The one beside the others is none of them, whatever its number.
        """
        numbers = [number for number in self._loaded if number != self._beside]
        latest = max(numbers, default=None)
        if latest is None or self._loaded[latest].drift is None:
            return latest
        right = (number for number in numbers if self._loaded[number].drift is None)
        return max(right, default=latest)

    def knows(self, version: int) -> bool:
        """Return whether that version is, was or will be served."""
        return version in self._statuses

    @property
    def loaded(self) -> Collection[LoadedVersion]:
        """The versions that are loaded."""
        return self._loaded.values()

    def statuses(self, choice: VersionChoice = None) -> list[LoadStatus]:
        """Return the states of all versions, or of one, newest first. Raises NotFound.

        A loaded version that does not give the answers of its certificate has that as its error.
        """
        version = self._number(choice)
        newest_first = sorted(self._statuses.items(), reverse=True)
        statuses = [
            self._with_drift(status) for number, status in newest_first if version in (None, number)
        ]
        if not statuses:
            what = "any versions" if version is None else f"version {version}"
            raise NotFound(f"Could not find {what} of model {self.name}")
        return statuses

    def _with_drift(self, status: LoadStatus) -> LoadStatus:
        loaded = self._loaded.get(status.version)
        drift = None if loaded is None else loaded.drift
        return status if drift is None else replace(status, error=drift)

    def _number(self, choice: VersionChoice) -> int | None:
        if not isinstance(choice, str):
            return choice
        if choice not in self._source.labels:
            labels = ", ".join(sorted(self._source.labels)) or "none"
            raise unknown_label(choice, hint=f"labels of {self.name}: {labels}")
        return self._source.labels[choice]

    def _pause(self) -> float | None:
        """Return the seconds until the next look or attempt; None when there is none."""
        now, poll = time.monotonic(), self._source.poll_seconds
        pauses = [retry_at - now for retry_at in self._failed.times()]
        if poll > 0:
            pauses.append(poll)
        least = 0.0 if self._folders.can_be_read else _AWAY_SECONDS
        return max(least, min(pauses)) if pauses else None

    async def _update(self, *, trusts_what_is_there: bool = False) -> None:
        async with self._changing:
            if not self.is_unloaded:
                await self._follow_once(trusts_what_is_there=trusts_what_is_there)

    async def _follow_once(self, *, trusts_what_is_there: bool) -> Look | None:
        """Look at the base path and serve what it holds; the caller holds `_changing`."""
        policy, loaded = self._source.policy, tuple(self._loaded)
        beside = self._source.rollout.split_version
        look = await run_on_daemon_thread(self._folders.look, policy, loaded, beside)
        if look is None or self.is_closed:
            return None
        before, self._last_look = self._last_look, look
        if trusts_what_is_there:
            before = Look(dict.fromkeys(look.present))
        self._show_waiting(look)
        await self._reconcile(look, before)
        return look

    def _show_waiting(self, look: Look) -> None:
        """Log once per version why it is not loaded yet, and forget versions that are gone."""
        for version, status in list(self._statuses.items()):
            if status.state is State.START and version not in look.present:
                self._set(version, State.END)
        for version in look.unfinished:
            if not self._waits(version):
                error = self._folders.no_manifest(version)
                _log.warning("version %d of %s is not served: %s", version, self.name, error)
                self._set(version, State.START, error)
        for version in look.wanted:
            if version not in self._statuses:
                _log.info("version %d of %s is new: waiting for all its files", version, self.name)
                self._set(version, State.START)

    def _waits(self, version: int) -> bool:
        status = self._statuses.get(version)
        return status is not None and status.state is State.START

    async def _reconcile(self, look: Look, before: Look) -> None:
        wanted = look.wanted
        self._failed.keep(wanted)
        if look.beside is None or look.beside not in self._loaded:
            self._set_beside(look.beside)
        for version in wanted:
            now = look.present[version]
            assert now is not None, "every version that is wanted was looked at"
            if look.is_settled(version, before) and self._is_worth_loading(version, now):
                await self._load(version, now)
        if not wanted or any(version in self._loaded for version in look.primary):
            # Only now: a version that answered all requests goes on until another one can.
            self._set_beside(look.beside)
            for version in set(self._loaded) - set(wanted):
                self._unload(version)

    def _set_beside(self, version: int | None) -> None:
        if version != self._beside:
            self._beside = version
            self._on_change()

    def _is_worth_loading(self, version: int, fingerprint: Fingerprint) -> bool:
        """Return whether a version is new, has changed, or failed and is due for a retry."""
        if version in self._failed:
            return self._failed.is_due(version, fingerprint)
        return self._loaded_as.get(version) != fingerprint

    async def _load(self, version: int, fingerprint: Fingerprint) -> None:
        """Load a version, or reload a served one whose files have changed."""
        _log.info("loading version %d of %s", version, self.name)
        old = self._loaded.get(version)
        if old is None:
            self._set(version, State.LOADING)
        try:
            loaded = await self._open(version)
        except MlserveError as error:
            _log.error("version %d of %s is not served: %s", version, self.name, error)
            self._failed.note(version, fingerprint, error)
            if old is None:
                self._set(version, State.END, error)
            return
        self._failed.forget(version)
        self._loaded[version], self._loaded_as[version] = loaded, fingerprint
        self._set(version, State.AVAILABLE)
        _log.info("version %d of %s is available", version, self.name)
        if old is not None:
            self._retire(old)

    async def _open(self, version: int) -> LoadedVersion:
        self._is_loading = True
        try:
            loaded = await run_on_daemon_thread(self._open_version, self._source, version)
        except MlserveError:
            self._is_loading = False
            raise
        self._is_loading = False  # unless only the wait was cancelled: the thread goes on loading
        return loaded

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
        _log.info("version %d of %s is unloaded", loaded.version, self.name)
        if self._statuses[loaded.version].state is State.UNLOADING:  # not wanted again meanwhile
            self._set(loaded.version, State.END)

    def _set(self, version: int, state: State, error: MlserveError | None = None) -> None:
        self._statuses[version] = LoadStatus(version, state, error)
        self._on_change()

    def _not_served(self, version: int | None) -> MlserveError:
        if self.is_unloaded:
            return Unavailable(
                f"{self.name} was unloaded by request",
                hint=f"load it: POST /v2/repository/models/{self.name}/load",
            )
        statuses = self._statuses
        asked = list(statuses.values()) if version is None else [statuses.get(version)]
        waiting = [s.error for s in asked if s is not None and s.state is State.START and s.error]
        if waiting:
            return waiting[-1]
        if any(s is not None and s.state in (State.START, State.LOADING) for s in asked):
            what = self.name if version is None else f"version {version} of {self.name}"
            return _loading(what)
        if self._absence is None and not statuses and not self.was_tried.is_set():
            return _loading(self.name)
        if self._absence is not None and not statuses:
            return Unavailable(f"{self.name} has no version yet: {self._absence}")
        failed = next((f": {s.error}" for s in asked if s is not None and s.error), "")
        served = ", ".join(str(v) for v in sorted(self._loaded)) or "none"
        what = f"{'version' if version is None else f'version {version}'} of {self.name}"
        return NotServed(self.name, version, f"the server has no {what}{failed}; served: {served}")


def _loading(what: str) -> Unavailable:
    return Unavailable(f"{what} is loading", hint="wait until `mlserve status` is ready")
