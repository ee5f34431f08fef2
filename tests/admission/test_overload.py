"""A server that gets three times its capacity, simulated with admission alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.tickets import Slot, Ticket
from tests.harness.admission import KIND

SLOTS, QUEUE = 2, 32


@dataclass
class Tally:
    """How the calls of a simulation ended."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    given_up: int = 0
    """Let in and not started: what took longer than estimated left them too little time."""


@dataclass
class Simulation:
    """A server whose runs share it evenly, or do not disturb each other (`is_parallel`)."""

    service: Callable[[], float]
    timeout: Callable[[], float]
    rate: float
    seconds: float = 15.0
    is_parallel: bool = False
    slots: int = SLOTS
    seed: int = 0

    def run(self) -> Tally:
        self.admission = Admission(self.slots, QUEUE)
        self.tally = Tally()
        self.left: dict[int, float] = {}
        self.runs: dict[int, tuple[Slot, Ticket]] = {}
        chance = random.Random(self.seed)
        now, arrival = 0.0, chance.expovariate(self.rate)
        while arrival < self.seconds or self.runs:
            end, key = self.next_end(now)
            step = min(end, arrival if arrival < self.seconds else end)
            self.advance(step - now)
            now = step
            if key is not None and now == end:
                self.finish(now, key)
            else:
                self.arrive(now, self.timeout())
                arrival = now + chance.expovariate(self.rate)
            self.dispatch(now)
        return self.tally

    def speed(self) -> float:
        return 1.0 if self.is_parallel else 1 / max(len(self.runs), 1)

    def next_end(self, now: float) -> tuple[float, int | None]:
        if not self.left:
            return float("inf"), None
        key = min(self.left, key=lambda k: self.left[k])
        return now + self.left[key] / self.speed(), key

    def advance(self, seconds: float) -> None:
        for key in self.left:
            self.left[key] -= seconds * self.speed()

    def arrive(self, now: float, timeout: float) -> None:
        work = Ticket(KIND, now + timeout)
        if self.admission.check(now, work) is None:
            self.admission.enter(work)
        else:
            self.tally.refused += 1

    def dispatch(self, now: float) -> None:
        while self.admission.has_slot() and (work := self.admission.next(now)) is not None:
            if self.admission.judge(now, work) is not None:
                self.admission.leave(work)
                self.tally.given_up += 1
                continue
            run = self.admission.start(now, [work])
            self.left[id(run)] = self.service()
            self.runs[id(run)] = run, work

    def finish(self, now: float, key: int) -> None:
        run, work = self.runs.pop(key)
        del self.left[key]
        self.admission.estimates.learn(work.kind, self.admission.end(now, run), now)
        if now <= work.expires_at:
            self.tally.in_time += 1
        else:
            self.tally.late += 1


def constant(mean: float, chance: random.Random) -> Callable[[], float]:
    return lambda: mean


def noisy(mean: float, chance: random.Random) -> Callable[[], float]:
    return lambda: max(0.3 * mean, chance.gauss(mean, 0.2 * mean))


def bimodal(mean: float, chance: random.Random) -> Callable[[], float]:
    """Three in four take half the mean, the others two and a half times it."""
    return lambda: mean * (0.5 if chance.random() < 0.75 else 2.5)


def simulate(service: Any, mean: float, timeout: Any, **options: Any) -> tuple[float, Tally]:
    """The part of its capacity that a server answers in time at three times its capacity."""
    is_parallel = options.get("is_parallel", False)
    capacity = (SLOTS if is_parallel else 1) / mean
    chance = random.Random(7)
    within = {"fixed": lambda: 1.0, "mixed": lambda: chance.uniform(0.1, 5.0)}[timeout]
    options = {"seconds": max(5.0, 300 * mean), **options}
    simulation = Simulation(service(mean, chance), within, 3 * capacity, **options)
    tally = simulation.run()
    return tally.in_time / (capacity * simulation.seconds), tally


@pytest.mark.server
@pytest.mark.parametrize("is_parallel", [False, True], ids=["shared", "parallel"])
@pytest.mark.parametrize("timeout", ["fixed", "mixed"])
@pytest.mark.parametrize("mean", [0.0057, 0.057, 0.17])
@pytest.mark.parametrize("service", [constant, noisy])
def test_what_is_let_in_ends_in_time_and_the_capacity_is_used(
    service: Any, mean: float, timeout: str, is_parallel: bool
) -> None:
    part, tally = simulate(service, mean, timeout, is_parallel=is_parallel)
    started = tally.in_time + tally.late
    assert part >= 0.95
    assert tally.late <= 0.03 * started
    assert tally.given_up <= 0.1 * started


@pytest.mark.parametrize("timeout", ["fixed", "mixed"])
def test_service_times_of_two_kinds_cost_little_of_the_capacity(timeout: str) -> None:
    part, tally = simulate(bimodal, 0.057, timeout)
    assert part >= 0.93
    assert tally.late <= 0.03 * tally.in_time


def test_the_first_second_is_not_lost_on_calls_that_end_late() -> None:
    """Nothing is known at the start, so all are let in; the first ends set that right."""
    part, _ = simulate(constant, 0.17, "fixed", seconds=3.0)
    assert part >= 0.9
