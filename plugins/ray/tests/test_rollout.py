"""Rolling to other versions: one replica at a time, and back when one refuses."""

from __future__ import annotations

from dataclasses import replace

from mlserve_ray.reports import Load, ReplicaState, Report
from mlserve_ray.rollout import Aim, Rollout

from mlserve.wire.replicas import ReplicaVersion, Rolling, RollingState

ONE, TWO = Aim((1,), ("a",)), Aim((2,), ("b",))


def serving(replica: str, version: int, *, error: str = "", load: Load | None = None) -> Report:
    statuses = (ReplicaVersion(version, "AVAILABLE", error),)
    return Report(
        replica, f"node of {replica}", ReplicaState.READY, versions=statuses, load=load or Load()
    )


def begun(*replicas: Report) -> Rollout:
    rollout = Rollout(ONE)
    assert rollout.aim(TWO)
    rollout.step(replicas, 0.0)
    return rollout


def test_one_replica_at_a_time_is_told() -> None:
    fleet = [serving("a", 1), serving("b", 1)]
    rollout = begun(*fleet)
    assert rollout.by_replica == {"a": (2,)}
    fleet[0] = serving("a", 2)
    rollout.step(fleet, 1.0)
    assert rollout.by_replica == {"a": (2,)}  # nobody has asked it anything yet
    rollout.step(fleet, 3.0)
    assert rollout.by_replica == {"a": (2,), "b": (2,)}
    fleet[1] = serving("b", 2)
    for now in (4.0, 6.0, 6.1):
        rollout.step(fleet, now)
    assert rollout.current == TWO
    assert rollout.by_replica == {}
    assert rollout.rolling == Rolling(2, RollingState.DONE, done=2, of=2, number=1)


def test_a_request_that_was_answered_is_enough() -> None:
    rollout = begun(serving("a", 1), serving("b", 1))
    rollout.step([serving("a", 2), serving("b", 1)], 1.0)
    asked = serving("a", 2, load=Load(answered={2: (1, 0)}))
    rollout.step([asked, serving("b", 1)], 1.1)
    assert rollout.by_replica == {"a": (2,), "b": (2,)}


def test_a_version_that_does_not_load_is_taken_back() -> None:
    fleet = [serving("a", 1), serving("b", 1)]
    rollout = begun(*fleet)
    bad = (*fleet[0].versions, ReplicaVersion(2, "END", "no such operator"))
    rollout.step([replace(fleet[0], versions=bad), fleet[1]], 1.0)
    assert rollout.by_replica == {}
    assert rollout.current == ONE
    assert rollout.state is RollingState.REFUSED
    assert rollout.reason == "node of a: no such operator"
    assert not rollout.aim(TWO)  # it is the same version, which would be refused again
    assert rollout.aim(replace(TWO, digests=("c",)))  # another export of it


def test_a_version_that_was_refused_may_be_chosen_again_once_another_was() -> None:
    rollout = begun(serving("a", 1))
    rollout.step([serving("a", 2, error="it answers a golden input wrong")], 1.0)
    assert rollout.state is RollingState.REFUSED
    assert not rollout.aim(ONE)
    before = rollout.rolling
    assert rollout.aim(TWO)
    rollout.step([serving("a", 1)], 2.0)
    rollout.step([serving("a", 2, error="it answers a golden input wrong")], 3.0)
    assert before is not None
    assert rollout.rolling == replace(before, number=2)  # told from the first refusal


def test_a_version_whose_answers_fail_is_taken_back() -> None:
    rollout = begun(serving("a", 1), serving("b", 1))
    rollout.step([serving("a", 2), serving("b", 1)], 1.0)
    failing = serving("a", 2, load=Load(answered={2: (0, 3)}))
    rollout.step([failing, serving("b", 1)], 1.5)
    assert rollout.reason == "node of a: 3 of its first 3 requests failed"
    assert rollout.by_replica == {}


def test_a_replica_that_dies_on_the_way_is_not_waited_for() -> None:
    rollout = begun(serving("a", 1), serving("b", 1))
    lost = replace(serving("a", 1), state=ReplicaState.LOST)
    rollout.step([lost, serving("b", 1)], 1.0)
    assert rollout.by_replica == {"b": (2,)}


def test_a_wish_that_is_taken_back_ends_the_change() -> None:
    rollout = begun(serving("a", 1))
    rollout.aim(ONE)
    assert rollout.by_replica == {}
    assert rollout.aim(TWO)


def test_a_version_that_ends_servers_is_taken_back() -> None:
    """Each replica would be told in its turn, until none serves."""
    fleet = [replace(serving(name, 1), pid=pid) for pid, name in enumerate("abc", 10)]
    rollout = begun(*fleet)
    fleet[0] = replace(fleet[0], pid=0, state=ReplicaState.STARTING)
    rollout.step(fleet, 1.0)
    assert rollout.by_replica == {"a": (2,)}  # something else may have ended it
    fleet[0] = replace(fleet[0], pid=20)
    rollout.step(fleet, 2.0)
    assert rollout.by_replica == {"a": (2,)}
    rollout.step(fleet[1:], 3.0)
    assert rollout.by_replica == {}
    assert rollout.reason == "the servers of 2 replicas that changed to it have ended"
    assert not rollout.aim(TWO)


def test_a_replica_that_drains_says_nothing_of_the_version() -> None:
    fleet = [replace(serving(name, 1), pid=pid) for pid, name in enumerate("abc", 10)]
    rollout = begun(*fleet)
    for left in ("a", "b"):
        told = next(each for each in fleet if each.id == left)
        fleet.remove(told)
        rollout.step([*fleet, replace(told, state=ReplicaState.DRAINING)], 1.0)
        rollout.step(fleet, 1.5)
    assert rollout.by_replica == {"c": (2,)}
