"""A replica's keeper: its server starts, dies, comes back, changes versions and drains."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlserve_ray import replica
from mlserve_ray.artifacts import Nearby, identity
from mlserve_ray.replica import Keeper, ReplicaPlan
from mlserve_ray.reports import Answer, Offer, ReplicaState, Report, Versions

from mlserve.errors import ModelLoadFailed
from mlserve.testing.processes import wait_until
from tests.harness.echo import EchoModel, manifest

pytestmark = pytest.mark.server
PLAN = ReplicaPlan(
    server="echo-m",
    model="m",
    flags=("--backend", "echo", "--model=m", "--model-control=off"),
    files={},
    token=None,
    slots=1,
    is_pinned=True,
    drain_timeout=5.0,
    host="127.0.0.1",
)


class FakeRoster:
    """A roster in this process: what the replica says, and what it is told."""

    def __init__(self, model: EchoModel) -> None:
        self._base = model.base_path
        self.wanted: Versions = (1,)
        self.last: Report | None = None
        self.lines: list[str] = []
        self.has_left = threading.Event()

    def report(self, report: Report, lines: Sequence[str], lost: int) -> Answer:
        self.last = report
        self.lines += lines
        found = [self._offer(version) for version in report.lacks]
        return Answer(self.wanted, tuple(found), report.state is ReplicaState.DRAINING)

    def leave(self, replica: str, lines: Sequence[str]) -> None:
        self.lines += lines
        self.has_left.set()

    def _offer(self, version: int) -> Offer:
        return Offer(version, identity(self._base / str(version)), str(self._base))

    def serves(self, version: int) -> bool:
        """Whether the replica is ready with that version alone."""
        report = self.last
        if report is None or report.state is not ReplicaState.READY:
            return False
        return [v.version for v in report.versions if v.state == "AVAILABLE"] == [version]

    def status(self, version: int) -> str:
        found = self.last.status_of(version) if self.last else None
        return "" if found is None else found.error

    def label(self) -> str:
        assert self.last is not None
        url = f"http://{self.last.address}/v1/models/m:predict"
        answer: dict[str, Any] = httpx.post(url, json={"inputs": ["x"]}, timeout=20).json()
        return str(answer["outputs"][0])

    @property
    def pid(self) -> int:
        assert self.last is not None
        return self.last.pid


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    made = EchoModel(tmp_path / "m")
    made.put(1, manifest=manifest(), label="one")
    return made


Keep = Callable[[], Keeper]


@contextmanager
def kept(roster: FakeRoster) -> Iterator[Keeper]:
    keeper = Keeper(PLAN, "r1", "127.0.0.1", lambda: roster, lambda piece: piece)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.end()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_life_of_a_replica(model: EchoModel) -> None:
    roster = FakeRoster(model)
    with kept(roster) as keeper:
        keeper.wait_settled()
        wait_until(lambda: roster.serves(1))
        assert roster.label() == "one"

        first = roster.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: roster.pid not in (0, first) and roster.serves(1))
        keeper.require_alive()
        assert roster.label() == "one"
        assert any("ended with signal 9" in line for line in roster.lines)

        model.put(2, manifest=manifest(), label="two")
        roster.wanted = (2,)
        wait_until(lambda: roster.serves(2))
        assert roster.label() == "two"

        model.put(3, manifest=manifest(), fail_load="no such operator")
        roster.wanted = (3,)
        wait_until(lambda: "no such operator" in roster.status(3))
        assert roster.label() == "two"
        roster.wanted = (2,)
        wait_until(lambda: roster.serves(2))
        last = roster.pid
    assert roster.has_left.is_set()
    assert is_gone(last)
    assert any("stopping: 0 requests to finish" in line for line in roster.lines)


def test_a_model_that_does_not_load_is_the_error_of_the_replica(tmp_path: Path) -> None:
    model = EchoModel(tmp_path / "m")
    model.put(1, manifest=manifest(), fail_load="no such operator")
    roster = FakeRoster(model)
    with kept(roster) as keeper, pytest.raises(ModelLoadFailed, match="no such operator"):
        keeper.wait_settled()
    assert roster.last is not None
    assert roster.last.state is ReplicaState.FAILED
    assert roster.last.exit_code == 5


def test_a_version_that_is_long_in_coming_keeps_no_server_from_being_looked_after(
    model: EchoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_come = threading.Event()
    outcomes: list[Exception] = [RuntimeError("the owner of the object has died")]
    folder = Nearby.folder

    def slow(nearby: Nearby, offer: Offer) -> Path:
        if offer.version == 2:
            assert has_come.wait(30)
            if outcomes:
                raise outcomes.pop()
        return folder(nearby, offer)

    monkeypatch.setattr(Nearby, "folder", slow)
    monkeypatch.setattr(replica, "_FETCH_AGAIN_SECONDS", 0.0)
    roster = FakeRoster(model)
    with kept(roster) as keeper:
        keeper.wait_settled()
        model.put(2, manifest=manifest(), label="two")
        roster.wanted = (2,)
        wait_until(lambda: roster.last is not None and roster.last.lacks == (2,))
        first = roster.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: roster.pid not in (0, first) and roster.serves(1))
        has_come.set()
        wait_until(lambda: roster.serves(2))
        keeper.require_alive()
    assert any("the owner of the object has died" in line for line in roster.lines)
