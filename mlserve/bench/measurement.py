"""What a load measured on a target, as figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlserve.bench.histogram import Histogram
from mlserve.bench.load import ClosedLoop, Load, Window
from mlserve.bench.tally import EXPIRED, LATE, LEFT, REFUSALS, Tally
from mlserve.bench.target import Target
from mlserve.percentiles import OF_LOADS
from mlserve.wire.headers import STAGES

_BUSY = 0.85
"""The part of a core from which on a process of the generator may be what limits the rate."""
_LAG = 0.005
_OF_LATENCY = 0.2


@dataclass(slots=True)
class Measurement:
    """One load on one target; `tallies` has one of each repeat, `pss` the most memory, in bytes."""

    target: Target
    load: Load
    window: Window
    tallies: list[Tally] = field(default_factory=list)
    pss: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether no repeat was interrupted."""
        return all(tally.is_whole for tally in self.tallies)

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured before an interrupt, which may come while it warms up."""
        return self.is_whole or any(tally.seconds for tally in self.tallies)

    @property
    def tally(self) -> Tally:
        """All repeats together."""
        return Tally.of_repeats(self.tallies)

    @property
    def goodput(self) -> float:
        """Answers in time per second: the median of the repeats, as far as they were measured."""
        found = [tally.goodput for tally in self.tallies if tally.seconds]
        return statistics.median(found) if found else 0.0

    def latency(self, share: float) -> float | None:
        """Return the percentile of the answers' latency, in seconds, over all repeats."""
        return self.tally.answers.quantile(share)

    def spread(self, figure: Callable[[Tally], float | None]) -> tuple[float, float] | None:
        """Return the least and the largest value of a figure over the repeats; None if unknown."""
        values = [value for tally in self.tallies if (value := figure(tally)) is not None]
        return (min(values), max(values)) if values else None

    @property
    def server_cores(self) -> float | None:
        """How many cores the server kept busy; None if it is not on this machine."""
        tally = self.tally
        return None if tally.server_cpu is None else tally.server_cpu / (tally.seconds or 1)

    @property
    def server_cpu_a_request(self) -> float | None:
        """Seconds of the server's CPU time a request; None if that is unknown."""
        tally = self.tally
        if tally.server_cpu is None or not tally.requests:
            return None
        return tally.server_cpu / tally.requests

    @property
    def warnings(self) -> list[str]:
        """What makes the figures doubtful: no request, or a generator that was a limit or late."""
        tally, found = self.tally, []
        if self.is_whole and not tally.requests:
            found.append(
                "no request ended in the measured time: measure longer (--duration), or ask more "
                "often (--rate)"
            )
        busiest = max(each.busiest_generator for each in self.tallies)
        if busiest > _BUSY:
            found.append(
                f"the load generator used {busiest:.0%} of a core, so it may be the limit and not "
                "the server: give it more processes (--processes)"
            )
        lag, median = tally.lag.quantile(0.99), tally.answers.quantile(0.5)
        if lag is not None and lag > max(_LAG, _OF_LATENCY * (median or 0.0)):
            found.append(
                f"1 % of the requests were sent {lag * 1000:.1f} ms or more after their moment, "
                "which counts as latency: the load generator had too little of the CPU, or no "
                "connection was free"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all figures as data."""
        tally = self.tally
        answers = tally.answers
        return {
            "target": self.target.name,
            "load": load_json(self.load),
            "is_whole": self.is_whole,
            "seconds": round(tally.seconds, 3),
            "requests": tally.requests,
            "in_time": tally.in_time,
            "late": tally.count(LATE),
            "expired": tally.count(EXPIRED),
            "left": tally.count(LEFT),
            "refused": tally.refused,
            "failed": tally.failed,
            "resent": tally.resent,
            "goodput": round(self.goodput, 3),
            "goodputs": [round(each.goodput, 3) for each in self.tallies],
            "latency_ms": percentiles_ms(answers),
            "latency_spread_ms": {
                name: self._spread_ms(share) for name, share in OF_LOADS.items() if len(answers)
            },
            "refusal_ms": percentiles_ms(refusals(tally)),
            "histogram": answers.to_json(),
            "stages_ms": {s: percentiles_ms(tally.stages[s]) for s in STAGES if s in tally.stages},
            "server": self._server_json(),
            "generator": {
                "cores": round(tally.generator_cpu / (tally.seconds or 1), 3),
                "busiest_process": round(max(t.busiest_generator for t in self.tallies), 3),
                "lag_ms": percentiles_ms(tally.lag),
            },
            "warnings": self.warnings,
        }

    def _server_json(self) -> dict[str, Any] | None:
        cores, of_one = self.server_cores, self.server_cpu_a_request
        if cores is None:
            return None
        return {
            "cores": round(cores, 3),
            "cpu_ms_a_request": None if of_one is None else round(of_one * 1000, 4),
            "pss_bytes": self.pss,
        }

    def _spread_ms(self, share: float) -> list[float]:
        low, high = self.spread(lambda tally: tally.answers.quantile(share)) or (0.0, 0.0)
        return [round(low * 1000, 3), round(high * 1000, 3)]


def load_json(load: Load) -> dict[str, Any]:
    """Return a load as data."""
    if isinstance(load, ClosedLoop):
        return {"kind": "closed", "concurrency": load.concurrency}
    return {"kind": "open", "rate": round(load.rate, 3), "arrivals": str(load.arrivals)}


def percentiles_ms(histogram: Histogram) -> dict[str, float]:
    """Return the percentiles of times, in milliseconds; nothing for no times."""
    found = {name: histogram.quantile(share) for name, share in OF_LOADS.items()}
    return {name: round(value * 1000, 3) for name, value in found.items() if value is not None}


def refusals(tally: Tally) -> Histogram:
    """Return how long it took the server to refuse."""
    return Histogram.merged(tally.latencies[kind] for kind in REFUSALS if kind in tally.latencies)
