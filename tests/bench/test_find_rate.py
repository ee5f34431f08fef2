"""The search for a rate, on a server whose capacity is known by counting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mlserve.bench.arrivals import Arrivals
from mlserve.bench.find_rate import FoundRate, RateSearch
from mlserve.bench.findings import sentence
from mlserve.bench.load import OpenLoop, Window
from mlserve.bench.measure import Step
from mlserve.bench.measurement import Measurement
from mlserve.bench.processes import LoadProcesses
from mlserve.bench.result import BenchResult
from mlserve.bench.slo import Slo, Verdict
from mlserve.bench.tally import ANSWERED, Tally
from mlserve.bench.target import Target
from tests.bench.conftest import OK, ServeHttp

BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
WINDOW = Window(0.4, 0.0, 2.0)


@pytest.mark.slow
def test_the_rate_is_that_of_the_server(serve_http: ServeHttp) -> None:
    """It takes a request every 20 ms, and refuses one that comes before: 50 a second at most."""
    free_at = 0.0

    async def answer(number: int) -> bytes:
        nonlocal free_at
        now = asyncio.get_running_loop().time()
        if now < free_at - 0.015:  # an even beat that the machine disturbs a little is taken
            return BUSY
        free_at = max(now, free_at) + 0.02
        return OK

    steps: list[Step] = []
    target = Target.of_http("t", serve_http(answer), b"x", timeout=2.0)
    search = RateSearch(
        Slo.parse("p90=1s"), WINDOW, Arrivals(0.0), confirmations=1, progress=steps.append
    )
    found = search.run(target)
    assert found.rate is not None
    assert 20 < found.rate < 80
    assert found.above is not None
    assert found.above > found.rate
    assert found.confirmations == 1
    assert [step.target for step in steps] == ["t"] * len(steps)
    assert len(steps) == 1 + len(found.probes)


def test_a_level_that_no_rate_holds_is_not_held(serve_http: ServeHttp) -> None:
    async def answer(number: int) -> bytes:
        return OK if number < 16 else BUSY  # enough for the closed loop that comes first

    target = Target.of_http("t", serve_http(answer), b"x", timeout=2.0)
    slo = Slo.parse("p99=1s")
    found = RateSearch(slo, Window(0.05, 0.0, 2.0), Arrivals(0.0), confirmations=1).run(target)
    assert found.rate is None
    assert found.above is not None
    assert not BenchResult([target], WINDOW, 1, found=[found], slo=slo).holds_slo
    assert found.to_json()["rate"] is None
    assert found.unseen is not None, "a load of 0.05 s has none of 8 requests a second"
    assert found.unseen < found.above
    assert "measure longer" in sentence(found)


@dataclass(frozen=True, slots=True)
class Scripted(RateSearch):
    """A search whose loads hold the level or miss it as `outcomes` say, one after the other."""

    outcomes: Iterator[bool] = field(default_factory=lambda: iter(()))

    def _probe(self, found: FoundRate, rate: float, runner: LoadProcesses, number: int) -> Verdict:
        tally = Tally(seconds=1.0)
        tally.latencies[ANSWERED].add(0.01 if next(self.outcomes) else 9.0)
        load = OpenLoop(rate, self.arrivals)
        found.probes.append(Measurement(found.target, load, self.window, [tally]))
        return self.slo.judge(tally)


def test_a_rate_that_half_of_the_repeats_miss_is_not_said_to_hold() -> None:
    target = Target.of_http("t", "http://127.0.0.1:1", b"x", timeout=2.0)
    found = FoundRate(target, Slo.parse("p99=1s"), rate=100.0)
    outcomes = iter([True, False, True, True])
    Scripted(found.slo, WINDOW, Arrivals(0.0), 2, outcomes=outcomes)._confirm(
        found, LoadProcesses(1)
    )
    assert (found.rate, found.above) == (95.0, 100.0)
    assert (found.confirmed, found.confirmations) == (2, 2)
    assert "in 2 of 2 further loads" in sentence(found)
