"""A service level counts what is refused as missed, and says how sure it is."""

from __future__ import annotations

from decimal import Decimal

import pytest

from mlserve.bench.slo import Slo
from mlserve.bench.tally import ANSWERED, Tally
from mlserve.errors import UsageError


def _tally(fast: int, slow: int = 0, refused: int = 0) -> Tally:
    tally = Tally(seconds=1.0)
    for kind, seconds, count in (
        (ANSWERED, 0.01, fast),
        (ANSWERED, 0.5, slow),
        ("overloaded", 0.001, refused),
    ):
        for _ in range(count):
            tally.latencies[kind].add(seconds)
    return tally


@pytest.mark.parametrize(
    ("tally", "is_held"),
    [
        (_tally(99, slow=1), True),
        (_tally(98, slow=2), False),
        (_tally(98, refused=2), False),
        (_tally(0), False),
    ],
)
def test_a_level_counts_every_request(tally: Tally, is_held: bool) -> None:
    assert Slo.parse("p99=200ms").judge(tally).is_held is is_held


@pytest.mark.parametrize("name", ["p99.9", "p99.5", "p99.99", "p29", "p57"])
def test_a_share_that_is_reached_exactly_holds_the_level(name: str) -> None:
    fast = int(Decimal(name[1:]) * 100)
    assert Slo.parse(f"{name}=100ms").judge(_tally(fast, slow=10_000 - fast)).is_held
    assert not Slo.parse(f"{name}=100ms").judge(_tally(fast - 1, slow=10_001 - fast)).is_held


def test_the_level_that_is_missed_most_is_told() -> None:
    verdict = Slo.parse("p50=1s,p99.9=100ms").judge(_tally(900, slow=100))
    assert str(verdict.level) == "p99.9=100ms"
    assert verdict.share == 0.9


def test_many_requests_make_it_sure() -> None:
    slo = Slo.parse("p95=200ms")
    assert not slo.judge(_tally(20)).is_sure
    assert slo.judge(_tally(2000)).is_sure
    low, high = slo.judge(_tally(95, slow=5)).interval
    assert (low, high) == pytest.approx((0.888, 0.978), abs=0.001)  # Wilson's, by the formula


@pytest.mark.parametrize(
    "text", ["", "5", "p99", "p99=0ms", "p0=1s", "p99=200", "q9=1s", "p99=-1s"]
)
def test_what_is_no_level_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--slo"):
        Slo.parse(text)
