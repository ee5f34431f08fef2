"""The highest rate at which a target holds a service level: bisected, then confirmed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from mlserve.bench.arrivals import Arrivals
from mlserve.bench.load import ClosedLoop, OpenLoop, Window
from mlserve.bench.measure import Progress, Step, measure_once
from mlserve.bench.measurement import Measurement
from mlserve.bench.processes import LoadProcesses
from mlserve.bench.slo import Slo, Verdict
from mlserve.bench.tally import Tally
from mlserve.bench.target import Target

CLIENTS = 16
"""Clients of the closed loop that shows about how much the target can do."""
_MARGIN = 1.3
"""The first rate, as a multiple of what the closed loop reached."""
_PRECISE = 1.05
_PROBES = 12
_BACK, _STEPS_BACK = 0.95, 5
_LOWEST = 0.02


@dataclass(slots=True)
class FoundRate:
    """What the search found for a target; `rate` None: the level was held at no rate tried.

    `above` is the lowest rate that did not hold it, None if all did. `confirmed` of `confirmations`
    further loads held it at that rate; `verdict` is of all of them together. `unseen` is a rate at
    which no request came in the time of a load, so that the search could not go on there.
    """

    target: Target
    slo: Slo
    rate: float | None = None
    above: float | None = None
    verdict: Verdict | None = None
    confirmed: int = 0
    confirmations: int = 0
    unseen: float | None = None
    is_whole: bool = True
    probes: list[Measurement] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the rate, and how sure it is, as data; the probes in the order of their rates."""
        return {
            "target": self.target.name,
            "slo": str(self.slo),
            "rate": None if self.rate is None else round(self.rate, 2),
            "not_held_at": None if self.above is None else round(self.above, 2),
            "no_request_at": None if self.unseen is None else round(self.unseen, 2),
            "confirmed": self.confirmed,
            "confirmations": self.confirmations,
            "verdict": None if self.verdict is None else self.verdict.to_json(),
            "is_whole": self.is_whole,
            "probes": [probe.to_json() for probe in self.in_order],
        }

    @property
    def in_order(self) -> list[Measurement]:
        """The loads that were tried, by their rate."""
        return sorted(self.probes, key=lambda probe: probe.load.rate)  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class RateSearch:
    """How a rate is looked for: the level, the loads, and how often the end is confirmed."""

    slo: Slo
    window: Window
    arrivals: Arrivals
    confirmations: int
    processes: int | None = None
    progress: Progress | None = None

    def run(self, target: Target) -> FoundRate:
        """Look for the rate. After an interrupt (Ctrl-C) the result is not whole."""
        found = FoundRate(target, self.slo)
        with LoadProcesses(self.processes) as runner:
            start = self._start(target, runner)
            if not start.is_whole or not start.goodput:
                found.is_whole = start.is_whole
                return found
            self._bisect(found, _MARGIN * start.goodput, runner)
            self._confirm(found, runner)
        return found

    def _start(self, target: Target, runner: LoadProcesses) -> Measurement:
        measurement = Measurement(target, ClosedLoop(CLIENTS), self.window)
        self._tell(target, str(measurement.load))
        measure_once(measurement, self.window, runner)
        return measurement

    def _bisect(self, found: FoundRate, highest: float, runner: LoadProcesses) -> None:
        """Halve the space between a rate that holds and one that does not, on a log scale."""
        low, rate = highest * _LOWEST, highest
        for number in range(_PROBES):
            verdict = self._probe(found, rate, runner, number)
            if not found.is_whole:
                return
            if not verdict.count:
                found.unseen = rate
                return
            if verdict.is_held:
                found.rate = low = rate
            else:
                found.above = rate
            if found.above is None:
                rate *= _MARGIN
            elif found.above / low <= _PRECISE:
                return
            else:
                rate = math.sqrt(low * found.above)

    def _confirm(self, found: FoundRate, runner: LoadProcesses) -> None:
        """Repeat the load at the rate found, and step back while half of the repeats miss it."""
        if not found.is_whole or found.rate is None or not self.confirmations:
            return
        for _ in range(_STEPS_BACK):
            verdicts, tallies = [], []
            for number in range(self.confirmations):
                verdict = self._probe(found, found.rate, runner, _PROBES + number)
                if not found.is_whole:
                    return
                if verdict.count:
                    verdicts.append(verdict)
                    tallies.append(found.probes[-1].tallies[-1])
            if not verdicts:
                found.unseen = found.rate
                return
            found.confirmations = len(verdicts)
            found.confirmed = sum(verdict.is_held for verdict in verdicts)
            found.verdict = self.slo.judge(Tally.of_repeats(tallies))
            if found.confirmed * 2 > found.confirmations:
                return
            found.above, found.rate = found.rate, found.rate * _BACK
        found.rate = None

    def _probe(self, found: FoundRate, rate: float, runner: LoadProcesses, number: int) -> Verdict:
        self._tell(found.target, f"{rate:.5g}/s")
        window = replace(self.window, seed=self.window.seed + number)
        probe = Measurement(found.target, OpenLoop(rate, self.arrivals), window)
        measure_once(probe, window, runner)
        found.probes.append(probe)
        found.is_whole = probe.is_whole
        return self.slo.judge(probe.tally)

    def _tell(self, target: Target, load: str) -> None:
        if self.progress is not None:
            self.progress(Step(0, 0, target.name, load))
