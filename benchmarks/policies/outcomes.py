"""Run the policies in the cells, in as many processes as asked, and keep what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from cells import SLOTS, Cell, arrivals
from policies import AdaptiveLifo, CoDel, Credits, Dagor, Fifo, FixedLimit, GradientLimit

from mlserve.admission.admission import Admission
from mlserve.admission.clairvoyant import clairvoyant
from mlserve.admission.estimates import CostKey, Estimates
from mlserve.admission.replay import AdmissionScheduler, Scheduler, simulate

OURS, CLAIRVOYANT = "mlserve", "clairvoyant EDF"
Make = Callable[[Cell], Scheduler]


class WrongEstimates(Estimates):
    """Estimates that are always wrong by the same factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def learn_run(
        self,
        answered: Set[CostKey],
        ended: Set[CostKey],
        seconds: float,
        now: float,
        *,
        together: int = 1,
        alone: bool = False,
    ) -> None:
        """See `Estimates`."""
        wrong = seconds * self._factor
        super().learn_run(answered, ended, wrong, now, together=together, alone=alone)


def _ours(cell: Cell) -> Scheduler:
    estimates = Estimates() if cell.wrong_by == 1 else WrongEstimates(cell.wrong_by)
    return AdmissionScheduler(Admission(SLOTS, estimates=estimates))


TRIED: dict[str, dict[str, Make]] = {
    OURS: {"": _ours},
    "FIFO": {"": lambda _: Fifo()},
    "fixed limit": {
        "4 calls": lambda _: FixedLimit(4),
        "6 calls": lambda _: FixedLimit(6),
        "8 calls": lambda _: FixedLimit(8),
        "12 calls": lambda _: FixedLimit(12),
        "16 calls": lambda _: FixedLimit(16),
        "34 calls": lambda _: FixedLimit(34),
    },
    "CoDel": {
        "5 ms, 100 ms": lambda _: CoDel(0.005, 0.1),
        "50 ms, 500 ms": lambda _: CoDel(0.05, 0.5),
        "100 ms, 100 ms": lambda _: CoDel(0.1, 0.1),
        "200 ms, 100 ms": lambda _: CoDel(0.2, 0.1),
        "200 ms, 1 s": lambda _: CoDel(0.2, 1.0),
    },
    "adaptive LIFO": {
        "100 ms": lambda _: AdaptiveLifo(0.1),
        "500 ms": lambda _: AdaptiveLifo(0.5),
        "1 s": lambda _: AdaptiveLifo(1.0),
        "100 ms, CoDel 5 ms": lambda _: AdaptiveLifo(0.1, 0.005),
        "500 ms, CoDel 200 ms": lambda _: AdaptiveLifo(0.5, 0.2),
    },
    "gradient": {
        "tolerance 1.5, 4 spare": lambda _: GradientLimit(1.5, 4.0),
        "tolerance 1.5, 1 spare": lambda _: GradientLimit(1.5, 1.0),
        "tolerance 1, 2 spare": lambda _: GradientLimit(1.0, 2.0),
        "tolerance 2, 1 spare": lambda _: GradientLimit(2.0, 1.0),
    },
    "DAGOR": {
        "20 ms": lambda _: Dagor(0.02),
        "100 ms": lambda _: Dagor(0.1),
        "200 ms": lambda _: Dagor(0.2),
        "400 ms": lambda _: Dagor(0.4),
    },
    "credits": {
        "50 ms": lambda _: Credits(0.05),
        "100 ms": lambda _: Credits(0.1),
        "200 ms": lambda _: Credits(0.2),
        "400 ms": lambda _: Credits(0.4),
    },
}
"""The settings tried of each policy; `CHOSEN` has the best of each over all cells."""
CHOSEN = {
    OURS: "",
    "FIFO": "",
    "fixed limit": "16 calls",
    "CoDel": "200 ms, 100 ms",
    "adaptive LIFO": "1 s",
    "gradient": "tolerance 1.5, 4 spare",
    "DAGOR": "400 ms",
    "credits": "200 ms",
}


@dataclass(frozen=True)
class Figure:
    """What one policy makes of one cell, all in parts of the server's time, but `answered`.

    `useful` is the work whose answers came in time, `wasted` the rest of what was done. `answered`
    is the part of the calls that were answered in time. `decide` is the seconds of real time that
    a call took to be decided and simulated.
    """

    useful: float
    wasted: float
    answered: float
    decide: float


def figure(cell: Cell, make: Make, calls: int, seed: int) -> Figure:
    """Run one policy in one cell."""
    arriving, begin, end = arrivals(cell, calls, seed)
    started = time.perf_counter()
    ended = simulate(arriving, make(cell), SLOTS)
    spent = (time.perf_counter() - started) / len(arriving)
    useful = wasted = 0.0
    for call in ended:
        if call.started_at is not None and begin <= call.decided_at <= end:
            if call.is_answered:
                useful += call.arrival.demand
            else:
                wasted += call.arrival.demand
    counted = [call for call in ended if begin <= call.arrived_at <= end]
    answered = sum(call.is_answered for call in counted) / max(len(counted), 1)
    return Figure(useful / (end - begin), wasted / (end - begin), answered, spent)


def best(cell: Cell, calls: int, seed: int) -> Figure:
    """Return what clairvoyant EDF makes of one cell."""
    arriving, begin, end = arrivals(cell, calls, seed)
    started = time.perf_counter()
    ends = clairvoyant(arriving)
    spent = (time.perf_counter() - started) / len(arriving)
    both = list(zip(arriving, ends, strict=True))
    useful = sum(a.demand for a, at in both if at is not None and begin <= at <= end)
    counted = [at for a, at in both if begin <= a.at <= end]
    answered = sum(at is not None for at in counted) / max(len(counted), 1)
    return Figure(useful / (end - begin), 0.0, answered, spent)


@dataclass(frozen=True)
class Job:
    """One cell, and the policies with their settings to run in it."""

    cell: Cell
    runs: Sequence[tuple[str, str]]
    calls: int
    seed: int


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[dict[tuple[str, str], Figure]]:
    """Yield the figures of each job, in order."""
    if processes == 1:
        yield from map(_run, jobs)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_run, jobs, chunksize=4)


def _run(job: Job) -> dict[tuple[str, str], Figure]:
    found = {(CLAIRVOYANT, ""): best(job.cell, job.calls, job.seed)}
    return found | {
        (policy, setting): figure(job.cell, TRIED[policy][setting], job.calls, job.seed)
        for policy, setting in job.runs
    }


def chosen(policies: Iterable[str]) -> list[tuple[str, str]]:
    """Return these policies, each with its chosen setting."""
    return [(policy, CHOSEN[policy]) for policy in policies]
