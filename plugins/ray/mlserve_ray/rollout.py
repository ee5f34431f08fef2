"""Rolling to other versions: one replica at a time, and back when one refuses.

A replica has changed when its server says that all of the versions are available and hold their
certificates, and when a request of a client was answered by them, if there are any requests. Only
then is the next one told. So a bad version reaches one replica, which serves the old one until the
new one is loaded. One whose server ends as it changes may have been killed by something else, and
is waited for, or for another in its place. At the second one, the version is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlserve.wire.replicas import Rolling, RollingState
from mlserve_ray.reports import ReplicaState, Report, Versions

_QUIET_SECONDS = 1.5
"""Seconds after which a replica without requests counts as changed; it tells its load every 1 s."""
_MOST_ENDS = 2
"""Servers that end during a change, at which the version is taken for what ends them."""
_LIVE = (ReplicaState.STARTING, ReplicaState.READY)


@dataclass(frozen=True, slots=True)
class Aim:
    """Versions to serve, and the digests of their files."""

    versions: Versions
    digests: tuple[str, ...] = ()


@dataclass(slots=True)
class _Change:
    """A replica that was told to change. `held_at` is when its server held the new versions."""

    replica: str
    held_at: float | None = None
    before: tuple[int, int] = (0, 0)


class Rollout:
    """Which versions each replica should serve. Knows no clock and no cluster."""

    def __init__(self, first: Aim) -> None:
        self.current = first
        """What replicas serve that were not told otherwise."""
        self.target: Aim | None = None
        """What is being rolled out."""
        self.state: RollingState | None = None
        self.reason = ""
        self._last = first
        self._refused: Aim | None = None
        self._done: set[str] = set()
        self._change: _Change | None = None
        self._of = 0
        self._number = 0
        self._ends = 0
        self._pids: dict[str, int] = {}
        """The servers' processes of the replicas that were told to change."""

    def aim(self, aim: Aim) -> bool:
        """Have the replicas serve those versions; return whether that begins a change."""
        if aim.versions == self.current.versions:
            self._refused = None
            if self.target is not None:  # the wish was taken back on the way
                self._go_back(RollingState.REFUSED, "another version was chosen meanwhile")
                self._refused = None
            return False
        if aim in (self.target, self._refused):
            return False
        self.target = self._last = aim
        self.state, self.reason = RollingState.ROLLING, ""
        self._number += 1
        self._done.clear()
        self._change = self._refused = None
        self._ends = 0
        self._pids.clear()
        return True

    def step(self, replicas: Sequence[Report], now: float) -> None:
        """Go on with the change, as far as the replicas have come. `now` is in seconds."""
        if self.target is None:
            return
        live = [replica for replica in replicas if replica.state in _LIVE]
        self._done &= {replica.id for replica in live}
        self._of = len(live)
        self._count_ends(replicas)
        if self._ends >= _MOST_ENDS:
            refused = self.target
            reason = f"the servers of {self._ends} replicas that changed to it have ended"
            self._go_back(RollingState.REFUSED, reason)
            self._refused = refused
            return
        self._judge(live, self.target, now)
        if self.target is None or self._change is not None:
            return
        rest = [replica for replica in live if replica.id not in self._done]
        if rest:
            # One that is starting serves nobody: if it refuses, nothing was at stake.
            first = min(rest, key=lambda replica: replica.state is ReplicaState.READY)
            self._pids[first.id] = first.pid
            self._change = _Change(first.id, before=_answered(first, self.target))
        elif live:
            self.current, self.target = self.target, None
            self.state = RollingState.DONE

    def _count_ends(self, replicas: Sequence[Report]) -> None:
        """Count the servers that have ended since their replicas were told to change."""
        known = {replica.id: replica for replica in replicas}
        for name, pid in list(self._pids.items()):
            replica = known.get(name)
            if replica is not None and replica.state in _LIVE:
                self._ends += pid not in (0, replica.pid)
                self._pids[name] = replica.pid
            else:
                was_meant = replica is not None and replica.state is ReplicaState.DRAINING
                self._ends += pid != 0 and not was_meant
                del self._pids[name]

    def _judge(self, live: Sequence[Report], target: Aim, now: float) -> None:
        """Look at the replica that is changing, if there is one."""
        change = self._change
        if change is None:
            return
        replica = next((each for each in live if each.id == change.replica), None)
        if replica is None:
            self._change = None  # it is gone, and another takes its place
            return
        if reason := _refusal(replica, target):
            self._go_back(RollingState.REFUSED, f"{replica.node}: {reason}")
            self._refused = target
            return
        if not _holds(replica, target):
            change.held_at = None
            return
        if change.held_at is None:
            change.held_at = now
            change.before = _answered(replica, target)
        good, failed = _answered(replica, target)
        good, failed = good - change.before[0], failed - change.before[1]
        if failed > good:
            reason = f"{failed} of its first {good + failed} requests failed"
            self._go_back(RollingState.REFUSED, f"{replica.node}: {reason}")
            self._refused = target
        elif good > 0 or now - change.held_at >= _QUIET_SECONDS:
            self._done.add(replica.id)
            self._change = None

    def _go_back(self, state: RollingState, reason: str) -> None:
        self.state, self.reason = state, reason
        self.target = self._change = None
        self._done.clear()

    @property
    def by_replica(self) -> Mapping[str, Versions]:
        """The versions of the replicas that were told to change."""
        if self.target is None:
            return {}
        told = set(self._done) | ({self._change.replica} if self._change else set())
        return dict.fromkeys(told, self.target.versions)

    @property
    def rolling(self) -> Rolling | None:
        """How the last change stands; None if there was none."""
        if self.state is None or not self._last.versions:
            return None
        done = self._of if self.state is RollingState.DONE else len(self._done)
        version = self._last.versions[-1]
        return Rolling(version, self.state, done, self._of, self.reason, self._number)


def _refusal(replica: Report, target: Aim) -> str:
    """Return why the replica refuses one of the versions; empty if it does not."""
    for version in target.versions:
        status = replica.status_of(version)
        if status is not None and status.error and status.state in ("END", "AVAILABLE"):
            return status.error
    return ""


def _holds(replica: Report, target: Aim) -> bool:
    statuses = [replica.status_of(version) for version in target.versions]
    return replica.state is ReplicaState.READY and all(
        status is not None and status.state == "AVAILABLE" for status in statuses
    )


def _answered(replica: Report, target: Aim) -> tuple[int, int]:
    """Return how many requests those versions answered and failed there."""
    counts = [replica.load.answered.get(version, (0, 0)) for version in target.versions]
    return sum(good for good, _ in counts), sum(failed for _, failed in counts)
