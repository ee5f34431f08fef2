"""What the front knows of the replicas: from the roster, and from before the roster was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlserve.wire import replicas as wire
from mlserve.wire.replicas import Replica
from mlserve_ray.reports import ReplicaState, Report, Snapshot
from mlserve_ray.roster import LOST_AFTER

_GONE = (ReplicaState.FAILED, ReplicaState.LOST)


class Fleet:
    """The replicas by id. All times are seconds on one clock."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._epoch = ""
        self._from_before: Mapping[str, Report] = {}
        self._until = 0.0
        self.failures: dict[str, Report] = {}
        """The replicas that failed before any was ready, and why."""
        self.was_ready = False
        """Whether any replica was ever ready."""

    def take(self, snapshot: Snapshot, now: float) -> bool:
        """Take over what the roster knows; return whether it was started again, empty.

        What was known before stays then, until the replicas have had the time to report.
        """
        is_new = snapshot.epoch != self._epoch
        if is_new:
            self._epoch, self._from_before = snapshot.epoch, self._reports
            self._until = now + 2 * LOST_AFTER
        if now > self._until:
            self._from_before = {}
        reports = {seen.report.id: seen.report for seen in snapshot.seen}
        reports = self._reports = {**self._from_before, **reports}
        for report in reports.values():
            self.was_ready |= report.state is ReplicaState.READY
            if report.state is ReplicaState.FAILED:
                self.failures[report.id] = report
        if self.was_ready:
            self.failures.clear()
        return is_new

    @property
    def replicas(self) -> list[Report]:
        """The replicas, by id; those that have failed are not among them."""
        found = (each for each in self._reports.values() if each.state is not ReplicaState.FAILED)
        return sorted(found, key=lambda report: report.id)

    @property
    def live(self) -> list[Report]:
        """The replicas that have been heard of lately."""
        return [each for each in self.replicas if each.state not in _GONE]

    @property
    def endpoints(self) -> list[Report]:
        """The replicas that requests may go to.

        If all were lost at the same time, then the roster is more likely to be cut off than they
        are to be dead, and requests go on: the ingress notices by itself what does not answer.
        """
        known = [each for each in self.replicas if each.rest_port]
        ready = [each for each in known if each.state is ReplicaState.READY]
        if ready or any(each.state not in _GONE for each in known):
            return ready
        return known

    @property
    def draining(self) -> frozenset[str]:
        """The replicas that are about to end."""
        states = {each.id: each.state for each in self.replicas}
        return frozenset(each for each in states if states[each] is ReplicaState.DRAINING)

    @property
    def states(self) -> Mapping[str, int]:
        """The number of replicas in each state."""
        return Counter(each.state.value for each in self.replicas)

    @property
    def told(self) -> tuple[Replica, ...]:
        """The replicas as `/mlserve/replicas` tells of them."""
        return tuple(map(_told, self.replicas))


def _told(report: Report) -> Replica:
    load = report.load
    return Replica(
        id=report.id,
        node=report.node,
        address=report.address,
        state=wire.ReplicaState(report.state),
        versions=report.versions,
        in_flight=load.in_flight,
        wait_seconds=round(load.wait, 4),
        refused=load.refused,
        requests=load.requests,
        pid=report.pid,
    )


def needed_files(replicas: Sequence[Report]) -> set[int]:
    """Return the versions whose files have to go to some node."""
    return {version for each in replicas for version in each.needs_files}
