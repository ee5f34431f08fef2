"""The arrivals of an open loop have the statistics that they are named for."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from mlserve.bench.arrivals import Arrivals
from mlserve.errors import UsageError


@pytest.mark.parametrize(("text", "cv"), [("poisson", 1.0), ("gamma:3", 3.0), ("gamma:0.5", 0.5)])
def test_the_gaps_have_the_mean_of_the_rate_and_the_cv(text: str, cv: float) -> None:
    moments = list(Arrivals.parse(text).moments(50.0, 600.0, seed=1))
    gaps = [after - before for before, after in pairwise(moments)]
    error = cv / len(gaps) ** 0.5  # of a mean; 4 times that is met by chance once in 16,000 seeds
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=4 * error)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.05)


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    counts = [0] * 1000
    for moment in Arrivals().moments(20.0, 1000.0, seed=2):
        counts[int(moment)] += 1
    assert statistics.variance(counts) == pytest.approx(statistics.mean(counts), rel=0.15)


def test_an_even_beat_has_no_spread_and_a_seed_repeats_the_plan() -> None:
    assert list(Arrivals.parse("even").moments(4.0, 1.1, 0)) == [0.25, 0.5, 0.75, 1.0]
    first, again, other = (list(Arrivals().moments(9.0, 9.0, seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("text", ["", "gama", "gamma:", "gamma:-1", "gamma:nan", "poisson:2"])
def test_what_is_no_arrivals_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--arrivals") as raised:
        Arrivals.parse(text)
    assert "gamma:2" in (raised.value.hint or "")


@pytest.mark.parametrize("text", ["poisson", "even", "gamma:2", "gamma:0.5"])
def test_the_name_of_arrivals_can_be_read_again(text: str) -> None:
    assert Arrivals.parse(str(Arrivals.parse(text))) == Arrivals.parse(text)
