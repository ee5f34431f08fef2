"""Which version gets a request, and when a split stops: on records, without a server."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlserve.errors import Unavailable
from mlserve.rollout import Split
from mlserve.server.engine.engine import Engine
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadStatus, State
from mlserve.server.request import OK, RequestRecord
from mlserve.server.rollout.split import ModelSplit
from mlserve.server.telemetry.metrics import Metrics
from mlserve.settings import ServerSettings
from mlserve.wire.rollouts import RolloutState


class TwoVersions:
    """Models as a split sees them: version 1 is in use, 2 beside it."""

    names = ("m",)
    base = 1
    beside: int | None = 2

    def base_of(self, model: str) -> Any:
        return SimpleNamespace(version=self.base, fault=None)

    def beside_of(self, model: str) -> Any:
        return None if self.beside is None else SimpleNamespace(version=self.beside)

    status = LoadStatus(2, State.AVAILABLE)

    def statuses(self, model: str, version: int) -> list[LoadStatus]:
        return [self.status]


class Made:
    """A split of `share` for version 2, and its requests."""

    def __init__(self, share: float, seed: int = 0) -> None:
        self.models = TwoVersions()
        engine = SimpleNamespace(settings=ServerSettings())
        self.split = ModelSplit(
            "m",
            Split(2, share),
            cast("Engine", engine),
            cast("Models", self.models),
            Metrics(),
        )
        self.chance = random.Random(seed)

    def request(self, request_id: str = "", code: str = OK) -> int | None:
        """Take a request through; return the version that it got."""
        record = RequestRecord(request_id or f"{self.chance.getrandbits(64):x}")
        record.model = "m"
        chosen = self.split.choose(record)
        record.code = code
        self.split.ended(record, 0.01)
        return chosen

    def requests_until_stopped(self, fails: Callable[[int], float], most: int) -> int | None:
        """Send requests that fail with the chance of their version, until the split stops."""
        for count in range(1, most + 1):
            record = RequestRecord(f"{self.chance.getrandbits(64):x}")
            record.model = "m"
            self.split.choose(record)
            share = fails(record.arm or 0)
            record.code = "deadline_exceeded" if self.chance.random() < share else OK
            self.split.ended(record, 0.01)
            if self.split.is_stopped:
                return count
        return None


def on_loop(check: Callable[[], None]) -> None:
    async def run() -> None:
        check()

    asyncio.run(run())


def test_an_id_gets_the_same_version_at_each_try_and_the_share_is_held() -> None:
    def check() -> None:
        made, again = Made(0.2), Made(0.2)
        ids = [f"request-{number}" for number in range(4000)]
        chosen = [made.request(each) for each in ids]
        assert chosen == [again.request(each) for each in ids]
        assert set(chosen) == {None, 2}
        assert 0.17 < chosen.count(2) / len(chosen) < 0.23
        told = made.split.report()
        assert [arm.version for arm in told.arms] == [1, 2]
        assert sum(arm.asked for arm in told.arms) == 4000
        assert [arm.goodput for arm in told.arms] == [1.0, 1.0]
        assert told.arms[1].p50_ms == 10.0

    on_loop(check)


@pytest.mark.slow
def test_versions_that_are_alike_are_hardly_ever_stopped() -> None:
    """Both fail alike, in bursts; half of alpha is for this test: 0.3 of the 60 runs may stop."""

    def check() -> None:
        stops = 0
        for seed in range(60):
            made = Made(0.1, seed)
            burst = {"left": 0}

            def fails(version: int, burst: dict[str, int] = burst, made: Made = made) -> float:
                if made.chance.random() < 0.005:
                    burst["left"] = 20
                burst["left"] -= 1
                return 0.9 if burst["left"] > 0 else 0.02

            stops += made.requests_until_stopped(fails, most=2500) is not None
        assert stops <= 2

    on_loop(check)


def test_a_worse_version_is_found_within_a_known_number_of_requests() -> None:
    """5 % go to a version of which half is late, and 1 % of the other: as docs/rollout.md says."""

    def check() -> None:
        runs = [
            Made(0.05, seed).requests_until_stopped(lambda v: 0.5 if v == 2 else 0.01, 5000)
            for seed in range(40)
        ]
        found = [run for run in runs if run is not None]
        assert len(found) == 40
        assert statistics.quantiles(found, n=20)[-1] <= 400

    on_loop(check)


def test_once_stopped_all_requests_go_to_the_version_in_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check() -> None:
        made = Made(0.3)
        assert made.requests_until_stopped(lambda v: float(v == 2), 100) is not None
        assert made.split.state is RolloutState.STOPPED
        assert made.split.share == 0.0
        assert {made.request() for _ in range(100)} == {None}
        told = made.split.report()
        assert told.why == "its goodput is worse"
        assert told.stopped_at
        # Another version in use does not start it again; only the other one's own turn does.
        made.models.base = 3
        made.split.look()
        assert made.split.is_stopped
        made.models.base, made.models.beside = 2, None
        made.split.look()
        assert made.split.state is RolloutState.IN_USE
        made.models.base, made.models.beside = 1, 2
        made.split.look()
        assert made.split.state is RolloutState.RUNNING
        assert 2 in {made.request() for _ in range(100)}

    on_loop(check)
    [line] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "the split of m is stopped, and version 2 gets no more requests" in line.getMessage()
    assert "version 1: goodput 100.00%" in line.getMessage()
    assert "\n" not in line.getMessage()


def test_a_request_that_is_tried_again_counts_once_against_a_version() -> None:
    def check() -> None:
        made = Made(0.5)
        unlucky = next(f"id-{n}" for n in range(100) if made.request(f"id-{n}") == 2)
        for _ in range(200):
            made.request(unlucky, code="unavailable")
        assert not made.split.is_stopped
        assert made.split.report().arms[1].failed == 200

    on_loop(check)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (LoadStatus(2, State.START, Unavailable("no manifest yet")), RolloutState.LOADING),
        (LoadStatus(2, State.END, Unavailable("half a file")), RolloutState.FAILED),
        (LoadStatus(2, State.AVAILABLE, Unavailable("golden inputs")), RolloutState.FAILED),
    ],
)
def test_why_the_other_version_gets_nothing(status: LoadStatus, state: RolloutState) -> None:
    def check() -> None:
        made = Made(0.5)
        made.models.beside, made.models.status = None, status
        assert {made.request() for _ in range(50)} == {None}
        told = made.split.report()
        assert status.error is not None
        assert (told.state, told.error) == (state, status.error.message)
        assert f"WARNING: {status.error.message}" in told.lines()

    on_loop(check)


def test_a_request_that_no_version_takes_is_counted_too() -> None:
    """Its processes have ended, say: the lease fails before the call is given to a version."""

    def check() -> None:
        made = Made(0.5)
        record = RequestRecord("id")
        made.split.choose(record)
        assert record.model == "m", "by which it is found when it has ended"

    on_loop(check)


def test_without_the_other_version_nothing_is_chosen_or_counted() -> None:
    def check() -> None:
        made = Made(0.5)
        made.models.beside = None
        assert {made.request(code="overloaded") for _ in range(50)} == {None}
        assert made.split.report().arms == ()
        assert made.split.state is RolloutState.LOADING

    on_loop(check)
