"""What the front knows of the replicas, also while the roster is away."""

from __future__ import annotations

from mlserve_ray.fleet import Fleet
from mlserve_ray.reports import ReplicaState, Report, Seen, Snapshot

from mlserve.wire.replicas import ReplicaSet, Scale


def replica(name: str, state: ReplicaState = ReplicaState.READY) -> Report:
    return Report(name, "node", state, "127.0.0.1", 1, 2)


def snapshot(*reports: Report, epoch: str = "first") -> Snapshot:
    return Snapshot(epoch, 1, tuple(Seen(report, 0.0) for report in reports))


def ids(reports: list[Report]) -> list[str]:
    return [report.id for report in reports]


def test_only_ready_replicas_get_requests() -> None:
    fleet = Fleet()
    fleet.take(
        snapshot(
            replica("a"), replica("b", ReplicaState.STARTING), replica("c", ReplicaState.DRAINING)
        ),
        0.0,
    )
    assert ids(fleet.endpoints) == ["a"]
    assert fleet.draining == {"c"}


def test_every_replica_but_those_that_failed_is_told_of() -> None:
    fleet = Fleet()
    fleet.take(snapshot(*(replica(state.value, state) for state in ReplicaState)), 0.0)
    told = ReplicaSet("s", "m", fleet.told, Scale(1, 5, 5))
    assert ReplicaSet.from_json(told.to_json()) == told
    assert {each.id for each in told.replicas} == {"starting", "ready", "draining", "lost"}
    assert told.replicas[0].address == "127.0.0.1:2"


def test_an_empty_roster_is_believed_once_the_replicas_had_the_time_to_report() -> None:
    fleet = Fleet()
    assert fleet.take(snapshot(replica("a"), replica("b")), 0.0)
    assert fleet.take(snapshot(epoch="second"), 10.0)
    assert ids(fleet.endpoints) == ["a", "b"]
    assert not fleet.take(snapshot(replica("b"), epoch="second"), 12.0)
    assert ids(fleet.endpoints) == ["a", "b"]
    fleet.take(snapshot(replica("b"), epoch="second"), 30.0)
    assert ids(fleet.endpoints) == ["b"]


def test_a_lost_replica_gets_no_requests_unless_all_are_lost() -> None:
    fleet = Fleet()
    fleet.take(snapshot(replica("a"), replica("b", ReplicaState.LOST)), 0.0)
    assert ids(fleet.endpoints) == ["a"]
    fleet.take(snapshot(replica("a", ReplicaState.LOST), replica("b", ReplicaState.LOST)), 1.0)
    assert ids(fleet.endpoints) == ["a", "b"]


def test_failures_are_remembered_and_are_no_replicas() -> None:
    fleet = Fleet()
    fleet.take(snapshot(replica("a", ReplicaState.FAILED)), 0.0)
    assert not fleet.replicas
    assert list(fleet.failures) == ["a"]
    assert not fleet.was_ready


def test_failures_are_of_the_start_only() -> None:
    """Later, each replica that fails would be kept for ever."""
    fleet = Fleet()
    fleet.take(snapshot(replica("a", ReplicaState.FAILED), replica("b")), 0.0)
    fleet.take(snapshot(replica("b"), replica("c", ReplicaState.FAILED)), 1.0)
    assert not fleet.failures
