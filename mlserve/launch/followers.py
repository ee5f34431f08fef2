"""Servers that follow the pin, each asked until it serves the version alone."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

from mlserve.errors import DeadlineExceeded, MlserveError, ModelLoadFailed
from mlserve.launch.replicas import replicas_of
from mlserve.launch.running import server_of
from mlserve.launch.served import Use

if TYPE_CHECKING:
    from mlserve.wire.replicas import ReplicaSet, Rolling

ASK_SECONDS = 2.0
_STALE = 5.0
"""Seconds in which a server is sure to have looked at its folder; it looks every second."""


def follower_of(use: Use, version: int) -> Follower:
    """Return what waits for that server; to be made before the pin is changed."""
    if use.record.traits.has_replicas:
        return ReplicasFollower(use, version)
    return ServerFollower(use, version)


class Follower(ABC):
    """A server that follows the pin, asked again and again until it serves the version alone."""

    def __init__(self, use: Use, version: int) -> None:
        self.use = use
        self.is_done = False
        self.is_unloaded = False
        """Whether a client had the model unloaded: it is loaded only if a client asks for it."""
        self.doing = "looking for the change"
        self._version = version

    def look(self) -> bool:
        """Ask once; return whether there is nothing more to wait for. Raises ModelLoadFailed."""
        if not server_of(self.use.record).is_running():
            return True
        try:
            self._ask()
        except ModelLoadFailed:
            raise
        except MlserveError as error:
            self.doing = error.message
        return self.is_done or self.is_unloaded

    @abstractmethod
    def _ask(self) -> None:
        """Ask once, and set `doing`, `is_done` and `is_unloaded`. Raises MlserveError."""

    def not_in_time(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.use.label} does not serve version {self._version} yet: {self.doing}",
            hint=f"it goes on: see mlserve status --server {self.use.name}; --timeout waits longer",
        )

    def _not_loaded(self, reason: str) -> ModelLoadFailed:
        return ModelLoadFailed(
            f"{self.use.label} cannot load version {self._version}: {reason}",
            hint="it serves what it served before, and the pin is as before",
        )


class ServerFollower(Follower):
    """A server that is one process."""

    def __init__(self, use: Use, version: int) -> None:
        super().__init__(use, version)
        # What was there before the change is shown until the server looks at its folder again.
        self._may_be_stale = self._has_looked = time.monotonic() + _STALE

    def _ask(self) -> None:
        try:
            with self.use.client() as client:
                statuses = client.status(timeout=ASK_SECONDS)
        except ModelLoadFailed as error:  # it speaks of whatever it serves now
            self.doing = error.message
            return
        mine = next((s for s in statuses if s.version == self._version), None)
        if mine is not None and mine.state == "END" and mine.error:
            if time.monotonic() >= self._may_be_stale:
                raise self._not_loaded(mine.error)
        else:
            self._may_be_stale = 0.0
            self.doing = f"version {self._version} is {mine.state if mine else 'not seen yet'}"
        served = {s.version for s in statuses if s.is_available}
        beside = self.use.model.rollout.split_version
        if beside != self._version:
            served.discard(beside)  # it stays beside whichever version is used
        self.is_done = served == {self._version}
        has_ended = all(s.state == "END" and not s.error for s in statuses)
        self.is_unloaded = has_ended and time.monotonic() >= self._has_looked


class ReplicasFollower(Follower):
    """A server of several replicas, which change one after the other."""

    def __init__(self, use: Use, version: int) -> None:
        super().__init__(use, version)
        self._may_be_stale = time.monotonic() + _STALE
        self._before: Rolling | None = None
        with suppress(MlserveError):  # then the last change is told from this one by the time
            self._before = self._replicas().rolling

    def _replicas(self) -> ReplicaSet:
        return replicas_of(self.use.record, ASK_SECONDS)

    def _ask(self) -> None:
        from mlserve.wire.replicas import RollingState

        found, version = self._replicas(), self._version
        rolling, have = found.rolling, [each.available == {version} for each in found.ready]
        self.doing = f"{sum(have)} of {len(have)} replicas serve version {version}"
        if rolling is not None and rolling.version == version:
            self.doing = f"{rolling.done} of {rolling.of} replicas serve version {version}"
            is_of_now = rolling != self._before or time.monotonic() >= self._may_be_stale
            if rolling.state is RollingState.REFUSED and is_of_now:
                raise self._not_loaded(rolling.reason)
        is_rolling = rolling is not None and rolling.state is RollingState.ROLLING
        self.is_done = bool(have) and all(have) and not is_rolling
