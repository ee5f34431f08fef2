"""Measure several targets under several loads, interleaved, so that all see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlserve.bench.load import Load, Window
from mlserve.bench.measurement import Measurement
from mlserve.bench.processes import LoadProcesses
from mlserve.bench.server_process import ServerProcesses
from mlserve.bench.target import Target


@dataclass(frozen=True, slots=True)
class Step:
    """What runs now: slice `number` of `count`."""

    number: int
    count: int
    target: str
    load: str


Progress = Callable[[Step], None]


def measure(
    targets: Sequence[Target],
    loads: Sequence[Load],
    window: Window,
    *,
    repeat: int = 1,
    processes: int | None = None,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Return a measurement of each target under each load, in the order of the loads.

    Each load runs `repeat` times on each target, the targets in turn (A B, B A, ...), with the same
    plan of arrivals for all of them. `processes` send it; None chooses by the load. Ctrl-C ends it:
    the last measurement is then not whole, and what was not begun is missing.
    """
    found: list[Measurement] = []
    total, number = len(loads) * repeat * len(targets), 0
    with LoadProcesses(processes) as runner:
        for load in loads:
            of_load = [Measurement(target, load, window) for target in targets]
            found += of_load
            for round_ in range(repeat):
                in_turn = replace(window, seed=window.seed + round_)
                for measurement in of_load[:: -1 if round_ % 2 else 1]:
                    number += 1
                    if progress is not None:
                        progress(Step(number, total, measurement.target.name, str(load)))
                    measure_once(measurement, in_turn, runner)
                    if not measurement.is_whole:
                        return [each for each in found if each.tallies]
    return found


def measure_once(measurement: Measurement, window: Window, runner: LoadProcesses) -> None:
    """Run a measurement's load on its target once more."""
    target = measurement.target
    tally = runner.run(target, measurement.load, window)
    measurement.tallies.append(tally)
    pss = ServerProcesses(target.pids).pss()
    measurement.pss = max(filter(None, (measurement.pss, pss)), default=None)
