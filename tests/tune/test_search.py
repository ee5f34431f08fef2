"""The trials: in which order, how often, and within which time."""

from __future__ import annotations

import pytest

from mlserve.errors import InferenceFailed, ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.tune.judge import Figures, Sample, Tried, judge
from mlserve.tune.preference import Preference
from mlserve.tune.search import Search

OPTIONS = [LoadOptions(), *(LoadOptions(threads=n) for n in (4, 2, 1)), LoadOptions(instances=4)]


class Bench:
    """Answers a second by options, measured on a clock that a trial moves by `cost` seconds."""

    def __init__(self, rates: dict[str, float | Exception], cost: float = 1.0) -> None:
        self.rates, self.cost, self.now = rates, cost, 0.0
        self.order: list[str] = []

    def __call__(self, options: LoadOptions) -> Sample:
        self.now += self.cost
        flags = " ".join(options.argv())
        self.order.append(flags)
        rate = self.rates.get(flags, 100.0)
        if isinstance(rate, Exception):
            raise rate
        return Sample(Figures(100, 10, 10), Figures(rate, 10, 10), 1, 0.5)

    def run(self, budget: float = 1000, options: list[LoadOptions] = OPTIONS) -> list[Tried]:
        tried = [Tried(each) for each in options]
        search = Search(
            tried,
            self,
            Preference.THROUGHPUT,
            budget,
            lambda done, total, options: None,
            clock=lambda: self.now,
        )
        search.run()
        return tried


def _winner(tried: list[Tried]) -> list[str]:
    return judge(tried, Preference.THROUGHPUT).winner.options.argv()


def test_every_candidate_once_then_the_best_beside_the_default() -> None:
    bench = Bench({"--threads=2": 150.0})

    tried = bench.run()

    assert _winner(tried) == ["--threads=2"]
    assert bench.order[:5] == [" ".join(o.argv()) for o in OPTIONS]
    assert bench.order[5:] == ["--threads=2", "", "--threads=2", ""]


def test_the_two_best_are_tried_together() -> None:
    bench = Bench(
        {"--threads=2": 150.0, "--instances=4": 130.0, "--threads=2 --instances=4": 190.0}
    )

    tried = bench.run()

    assert _winner(tried) == ["--threads=2", "--instances=4"]
    assert tried[-1].options == LoadOptions(threads=2, instances=4)


def test_without_anything_better_the_default_wins() -> None:
    bench = Bench({})

    assert _winner(bench.run()) == []
    assert len(bench.order) == len(OPTIONS)


def test_the_second_best_has_its_chance_if_the_best_was_luck() -> None:
    luck = iter([200.0, 100.0, 100.0])

    class Lucky(Bench):
        def __call__(self, options: LoadOptions) -> Sample:
            if options.argv() == ["--threads=4"]:
                self.rates["--threads=4"] = next(luck)
            return super().__call__(options)

    bench = Lucky({"--threads=2": 150.0})

    assert _winner(bench.run()) == ["--threads=2"]


def test_what_there_is_no_time_for_is_not_tried_but_the_best_is_measured_again() -> None:
    bench = Bench({"--threads=4": 150.0, "--threads=1": 200.0})

    tried = bench.run(budget=3)

    assert [len(each.samples) for each in tried] == [3, 3, 1, 0, 0]
    assert _winner(tried) == ["--threads=4"]


def test_a_slow_model_has_one_candidate_tried_at_least() -> None:
    bench = Bench({"--threads=4": 150.0}, cost=20)

    tried = bench.run(budget=30)

    assert [len(each.samples) for each in tried] == [3, 3, 0, 0, 0]
    assert _winner(tried) == ["--threads=4"]


def test_a_candidate_that_fails_loses_and_the_search_goes_on() -> None:
    bench = Bench({"--threads=4": ModelLoadFailed("no room"), "--threads=1": 150.0})

    tried = bench.run()

    assert tried[1].failure is not None
    assert _winner(tried) == ["--threads=1"]


def test_a_default_that_fails_is_an_error() -> None:
    with pytest.raises(InferenceFailed, match="it is broken"):
        Bench({"": InferenceFailed("it is broken")}).run()
