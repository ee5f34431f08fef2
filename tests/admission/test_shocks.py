"""What goes wrong under a load that a server bears, and that nothing of it is left soon after.

Two slots, calls of 0.06 s of the whole server, at 0.8 of what it can do, with one second each. The
shock begins after 10 s. From one second after its end on, at least 99 of 100 calls are answered.
The clock is simulated, and the arrivals come from a seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.clairvoyant import clairvoyant
from mlserve.admission.estimates import CostKey
from mlserve.admission.replay import AdmissionScheduler, Arrival, Call, replay, simulate
from mlserve.admission.verdicts import Refusal

KIND = CostKey.from_rows("m", 1, "serving_default", 1)
DEMAND, RATE, WAIT = 0.06, 0.8 / 0.06, 1.0
BEGINS, LASTS, END = 10.0, 4.0, 30.0
TRIES = 3
Shock = Callable[[Arrival], Arrival]


def _calls(seed: int, *, is_told: bool, cv: float = 1.0, end: float = END) -> list[Arrival]:
    """Return the calls without a shock; their demands differ by a tenth."""
    chance, at, found = random.Random(seed), 0.0, []
    shape = 1 / cv**2
    while (at := at + chance.gammavariate(shape, 1 / RATE / shape)) < end:
        demand = DEMAND * chance.uniform(0.9, 1.1)
        told = Arrival(at, KIND, demand, timeout=WAIT, is_asked=True)
        found.append(told if is_told else Arrival(at, KIND, demand, patience=WAIT))
    return found


def _is_hit(call: Arrival) -> bool:
    return BEGINS <= call.at < BEGINS + LASTS


def _slower(times: float) -> Shock:
    return lambda call: replace(call, demand=times * call.demand) if _is_hit(call) else call


def _frozen(call: Arrival) -> Arrival:
    """Let the server see the call once it runs again. Its caller has waited since, and may have
    left; the server takes the call's whole time to lie before it."""
    if not _is_hit(call):
        return call
    waited = BEGINS + LASTS - call.at
    left = max(0.0, WAIT - waited)
    return replace(call, at=BEGINS + LASTS, patience=left)


def _attainment_after(calls: list[Call]) -> float:
    after = [call for call in calls if call.arrival.at >= BEGINS + LASTS + WAIT]
    assert len(after) > 100
    return sum(call.is_answered for call in after) / len(after)


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize(
    "shock",
    [_slower(3.0), _slower(2.0), _frozen],
    ids=["model three times slower", "neighbour", "frozen"],
)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_a_shock_after_one_deadline(
    shock: Shock, is_told: bool, seed: int
) -> None:
    arrivals = sorted(map(shock, _calls(seed, is_told=is_told)), key=lambda call: call.at)
    calls = replay(arrivals, Admission(slots=2))
    assert _attainment_after(calls) >= 0.99


class Retrying:
    """Clients that ask again at once when they are refused or have waited in vain."""

    def __init__(self, arrivals: list[Arrival]) -> None:
        self._inner = AdmissionScheduler(Admission(slots=2))
        self._number = count()
        self._line = [(call.at, next(self._number), call, call, 0) for call in arrivals]
        self._asked: dict[Arrival, tuple[Arrival, int]] = {}
        self.answered: set[Arrival] = set()
        self.attempts = 0

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the calls and what follows from them, as time goes by."""
        now = 0.0
        while self._line:
            at, _, call, first, tries = heapq.heappop(self._line)
            now = max(now, at)
            sent = replace(call, at=now)
            self._asked[sent] = first, tries
            self.attempts += 1
            yield sent

    def arrive(self, now: float, call: Call) -> Refusal | None:
        why = self._inner.arrive(now, call)
        if why is not None:
            self._again(now, call)
        return why

    def take(self, now: float) -> list[Call]:
        return list(self._inner.take(now))

    def end(self, now: float, calls: list[Call]) -> None:
        self._inner.end(now, calls)
        for call in calls:
            if call.is_answered:
                self.answered.add(self._asked[call.arrival][0])

    def leave(self, now: float, call: Call) -> None:
        self._inner.leave(now, call)
        self._again(now, call)

    def leave_running(self, now: float, call: Call) -> None:
        self._inner.leave_running(now, call)
        self._again(now, call)

    def _again(self, now: float, call: Call) -> None:
        first, tries = self._asked[call.arrival]
        if tries < TRIES:
            again = now, next(self._number), call.arrival, first, tries + 1
            heapq.heappush(self._line, again)


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_retries_ends_with_what_began_it(is_told: bool, seed: int) -> None:
    """With four attempts a call the load could stay at 3.2 times the capacity, for ever."""
    firsts = [_slower(3.0)(call) for call in _calls(seed, is_told=is_told)]
    clients = Retrying(firsts)
    simulate(clients.arrivals(), clients, slots=2)
    assert clients.attempts > 1.1 * len(firsts)
    after = [call for call in firsts if call.at >= BEGINS + LASTS + WAIT]
    assert len(clients.answered.intersection(after)) >= 0.99 * len(after)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_burst_costs_those_few_that_come_after_it(seed: int) -> None:
    """Gaps with a CV of 8. A burst is what a clairvoyant server, a fifth slower, cannot bear."""
    arrivals = _calls(seed, is_told=True, cv=8.0, end=300.0)
    calls = replay(arrivals, Admission(slots=2))
    best = sum(end is not None for end in clairvoyant(arrivals))
    over, calm = -WAIT, list[bool]()
    slower = clairvoyant(replace(call, demand=1.2 * call.demand) for call in arrivals)
    for call, end in zip(calls, slower, strict=True):
        over = call.arrival.at if end is None else over
        if call.arrival.at >= over + WAIT:
            calm.append(call.is_answered)
    assert best < 0.9 * len(calls), "no burst was more than the server could do"
    assert sum(call.is_answered for call in calls) >= 0.9 * best
    assert len(calm) > 500
    assert sum(calm) >= 0.99 * len(calm)
