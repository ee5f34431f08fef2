"""What a whole run of `mlserve bench` measured, as JSON (docs/bench.md describes it)."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlserve import __version__
from mlserve.bench.find_rate import FoundRate
from mlserve.bench.load import Window
from mlserve.bench.measurement import Measurement, load_json
from mlserve.bench.slo import Slo
from mlserve.bench.target import Target
from mlserve.system import usable_cpus


@dataclass(slots=True)
class BenchResult:
    """Everything that one run of `mlserve bench` measured."""

    targets: Sequence[Target]
    window: Window
    repeat: int
    measurements: list[Measurement] = field(default_factory=list)
    found: list[FoundRate] = field(default_factory=list)
    slo: Slo | None = None
    is_cut: bool = False
    """Whether a load was interrupted before anything of it was measured; it is left out."""
    leave_after: Sequence[float] = ()
    """Seconds after which callers leave that tell no deadline, in turn; none: all tell it."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def is_whole(self) -> bool:
        """Whether the run came to its end."""
        parts: list[Measurement | FoundRate] = [*self.measurements, *self.found]
        return not self.is_cut and all(part.is_whole for part in parts)

    def take(self, measured: Sequence[Measurement]) -> None:
        """Add what was measured."""
        begun = [each for each in measured if each.has_begun]
        self.measurements += begun
        self.is_cut = self.is_cut or len(begun) < len(measured)

    @property
    def all_measurements(self) -> list[Measurement]:
        """The measurements, and those of the searches for a rate."""
        return [*self.measurements, *(probe for each in self.found for probe in each.in_order)]

    @property
    def waits(self) -> str:
        """How long the callers wait, in words."""
        if not self.leave_after:
            return f"timeout {self.window.timeout:g} s"
        seconds = ", ".join(f"{each:g}" for each in self.leave_after)
        return f"callers tell no deadline, and leave after {seconds} s"

    @property
    def holds_slo(self) -> bool:
        """Whether the service level is held: by every load, or at some rate on every target."""
        if self.slo is None:
            return True
        judged = all(self.slo.judge(m.tally).is_held for m in self.measurements)
        return judged and all(found.rate is not None for found in self.found)

    @property
    def unanswered(self) -> list[Measurement]:
        """The measurements in which no request was answered, not even late."""
        return [each for each in self.measurements if not len(each.tally.answers)]

    def to_json(self) -> dict[str, Any]:
        """Return it as data; docs/bench.md says what each key is."""
        return {
            "format": 1,
            "mlserve": __version__,
            "started": self.started,
            "is_whole": self.is_whole,
            "machine": {"cpus": usable_cpus(), "system": platform.platform()},
            "seconds": self.window.seconds,
            "warm_up": self.window.warm_up,
            "timeout": self.window.timeout,
            "leave_after": list(self.leave_after),
            "repeat": self.repeat,
            "seed": self.window.seed,
            "targets": [target_json(target) for target in self.targets],
            "measurements": [self._measured_json(each) for each in self.measurements],
            "ratios": ratios(self.measurements),
            "found": [each.to_json() for each in self.found],
        }

    def _measured_json(self, measured: Measurement) -> dict[str, Any]:
        if self.slo is None:
            return measured.to_json()
        return {**measured.to_json(), "slo": self.slo.judge(measured.tally).to_json()}


def target_json(target: Target) -> dict[str, Any]:
    """Return what was asked, as data."""
    return {
        "name": target.name,
        "endpoint": str(target.endpoint),
        "protocol": target.endpoint.protocol,
        "api": target.api,
        "model": target.model,
        "requests": len(target.requests),
        "request_bytes": round(statistics.mean(len(r.body) for r in target.requests)),
        "pids": list(target.pids),
    }


def ratios(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return each target's figures over those of the first, under the same load."""
    rows = []
    firsts: dict[str, Measurement] = {}
    for measured in measurements:
        first = firsts.setdefault(str(measured.load), measured)
        if first is measured:
            continue
        rows.append(
            {
                "target": measured.target.name,
                "to": first.target.name,
                "load": load_json(measured.load),
                "goodput": ratio(measured.goodput, first.goodput),
                "p50": ratio(measured.latency(0.5), first.latency(0.5)),
                "p99": ratio(measured.latency(0.99), first.latency(0.99)),
            }
        )
    return rows


def ratio(value: float | None, to: float | None) -> float | None:
    """Return the ratio of two figures, rounded; None if one is missing or the second is 0."""
    return None if value is None or not to else round(value / to, 3)
