"""What arrives in each cell of the comparison: how much, how evenly, and how long callers wait."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlserve.admission.estimates import CostKey
from mlserve.admission.replay import DEFAULT_TIMEOUT, Arrival

SLOTS = 2
LOADS = (0.5, 0.8, 1.0, 1.5, 3.0, 5.0, 10.0)
BURSTS = (1, 2, 4, 8)
"""Coefficients of variation of the gaps: 1 is Poisson, 8 is long silence and sudden crowds."""
CALLS = 1000
"""Arrivals of a cell that are counted, at least; as many as `WARM_UP` come before."""
WARM_UP = 200
SHORTEST = 20.0
"""Seconds that a cell lasts at least."""
_WARM_LOAD = 0.5
SLOW, FAST = "slow", "fast"
_TIMES = Path(__file__).parent / "service_times.json"


@dataclass(frozen=True)
class Callers:
    """Who asks: which models, and how long they wait.

    `models` are asked in turn by chance, for as much work of each. `waits` are the seconds that a
    caller waits, one of them by chance; with `is_asked` it says so as its deadline, else it hangs
    up after as long, and the deadline is the server's default.
    """

    name: str
    waits: tuple[float, ...]
    is_asked: bool
    models: tuple[str, ...] = (SLOW,)


@dataclass(frozen=True)
class Cell:
    """One load of one kind of callers. `load` is the work that arrives, in capacities.

    `cv` is the coefficient of variation of the gaps. `other_load` is what comes in turn with
    `load`, for `PERIOD` seconds each. `slower` is by how much calls take longer in the second third
    of the cell. The estimates are `wrong_by` that factor, all the time.
    """

    group: str
    callers: Callers
    load: float
    cv: float = 1.0
    other_load: float | None = None
    slower: float = 1.0
    wrong_by: float = 1.0

    @property
    def name(self) -> str:
        """What tells it from all others."""
        steps = "" if self.other_load is None else f", steps from {self.other_load:g}"
        wrong = "" if self.wrong_by == 1 else f", estimates x {self.wrong_by:.2g}"
        slower = "" if self.slower == 1 else f", turns {self.slower:g} times slower"
        return f"{self.callers.name}, {self.load:g} x, CV {self.cv:g}{steps}{slower}{wrong}"


ONE_SECOND = Callers("deadline 1 s", (1.0,), is_asked=True)
MIXED_DEADLINES = Callers("deadlines 0.3, 1, 5 s", (0.3, 1.0, 5.0), is_asked=True)
TWO_MODELS = Callers("two models, deadline 1 s", (1.0,), is_asked=True, models=(SLOW, FAST))
FAST_MODEL = Callers("fast model, deadline 1 s", (1.0,), is_asked=True, models=(FAST,))
LEAVE_AT_ONE = Callers("leave after 1 s", (1.0,), is_asked=False)
FAST_LEAVE = Callers("fast model, leave after 1 s", (1.0,), is_asked=False, models=(FAST,))
LEAVE_MIXED = Callers("leave after 0.5, 1, 5 s", (0.5, 1.0, 5.0), is_asked=False)
UNLIMITED = Callers("never leave", (math.inf,), is_asked=False)
CURVES = (ONE_SECOND, MIXED_DEADLINES, TWO_MODELS, LEAVE_AT_ONE, LEAVE_MIXED, UNLIMITED)
PERIOD = 10.0
"""Seconds of each load of a cell with steps."""


def all_cells() -> Iterator[Cell]:
    """Yield all cells, those of a group together."""
    for callers in CURVES:
        for cv in BURSTS:
            yield from (Cell(callers.name, callers, load, cv) for load in LOADS)
    for callers in (FAST_MODEL, FAST_LEAVE):
        yield from (Cell("fast model", callers, load) for load in LOADS)
    for callers in (ONE_SECOND, MIXED_DEADLINES, LEAVE_AT_ONE, LEAVE_MIXED):
        for load in (3.0, 10.0):
            yield Cell("steps", callers, load, other_load=0.5)
        yield Cell("steps", callers, 0.8, slower=3.0)
    for factor in (3.0, 1 / 3):
        for load in (0.5, 0.8, 1.5, 3.0, 10.0):
            yield Cell("wrong estimates", ONE_SECOND, load, wrong_by=factor)


def arrivals(cell: Cell, calls: int = CALLS, seed: int = 0) -> tuple[list[Arrival], float, float]:
    """Return what arrives, and from when to when answers are counted, in seconds.

    Before that, the server gets to know its models at half its capacity.
    """
    chance = random.Random(f"{seed} {cell.name}")
    source = _Source(cell, chance)
    mean = source.mean
    begin = WARM_UP * mean / _WARM_LOAD
    mean_load = cell.load if cell.other_load is None else (cell.load + cell.other_load) / 2
    seconds = max(SHORTEST, calls * mean / mean_load)
    if cell.other_load is not None:
        seconds = 2 * PERIOD * math.ceil(seconds / (2 * PERIOD))
    found = [source.arrival(at) for at in _moments(begin, lambda _: _WARM_LOAD / mean, 1.0, chance)]

    def rate(at: float) -> float:
        is_other = cell.other_load is not None and at % (2 * PERIOD) < PERIOD
        return (cell.other_load if is_other and cell.other_load else cell.load) / mean

    for at in _moments(seconds, rate, cell.cv, chance):
        is_slow = cell.slower != 1 and seconds / 3 <= at < 2 * seconds / 3
        found.append(source.arrival(begin + at, cell.slower if is_slow else 1.0))
    return found, begin, begin + seconds


class _Source:
    """Makes the calls of a cell."""

    def __init__(self, cell: Cell, chance: random.Random) -> None:
        self._cell, self._chance = cell, chance
        self._times: list[tuple[CostKey, Sequence[float]]] = []
        self._weights = []
        recorded = json.loads(_TIMES.read_text())
        for model in cell.callers.models:
            seconds, ratios = recorded[model]["seconds"], recorded[model]["ratios"]
            times = [seconds * ratio for ratio in ratios]
            self._times.append((CostKey.from_rows(model, 1, "serving_default", 1), times))
            self._weights.append(len(times) / sum(times))  # as much work of each
        means = [sum(times) / len(times) for _, times in self._times]
        weighted = zip(means, self._weights, strict=True)
        self.mean = sum(mean * weight for mean, weight in weighted) / sum(self._weights)
        """What a call takes on average, in seconds."""

    def arrival(self, at: float, slower: float = 1.0) -> Arrival:
        callers, chance = self._cell.callers, self._chance
        (which,) = chance.choices(self._times, self._weights)
        kind, times = which
        wait, demand = chance.choice(callers.waits), slower * chance.choice(times)
        if callers.is_asked:
            return Arrival(at, kind, demand, wait, is_asked=True)
        return Arrival(at, kind, demand, DEFAULT_TIMEOUT, patience=wait)


def _moments(
    seconds: float, rate: Callable[[float], float], cv: float, chance: random.Random
) -> Iterator[float]:
    """Yield moments below `seconds` whose gaps have that variation, at a rate that may change."""
    shape = 1 / cv**2
    at = 0.0
    while True:
        # The rate at the beginning of a gap holds for all of it, up to the next step.
        gap = chance.gammavariate(shape, 1 / shape)
        while True:
            now = rate(at)
            step = (at // PERIOD + 1) * PERIOD - at
            if gap <= now * step or step <= 0:
                at += gap / now
                break
            gap -= now * step
            at += step
        if at >= seconds:
            return
        yield at
