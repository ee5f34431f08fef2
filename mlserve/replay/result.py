"""What came of a replay, beside what was recorded: the figures, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlserve import __version__
from mlserve.bench.measurement import Measurement, percentiles_ms
from mlserve.bench.tally import EXPIRED, LATE, LEFT, Tally
from mlserve.recording.reading import Summary
from mlserve.replay.agreement import Agreement
from mlserve.replay.bodies import Origin
from mlserve.replay.expectations import Held
from mlserve.wire.headers import STAGES


@dataclass(slots=True)
class ReplayResult:
    """A replay that was sent, wholly or until Ctrl-C.

    `recorded` is what became of the requests then: its latencies are times in the server. Those of
    `replayed` are what the callers saw. `seconds` are how long each took from the first request to
    the last. `origins` say where the bodies came from, `errors` what the server said in place of
    answers that were recorded.
    """

    asked: str
    endpoints: tuple[str, ...]
    speed: float
    recorded: Tally
    replayed: Measurement
    agreement: Agreement
    origins: Mapping[Origin, int]
    errors: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    by_model: Mapping[str, tuple[Tally, Tally]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    @property
    def tally(self) -> Tally:
        """What became of the requests now."""
        return self.replayed.tally

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end."""
        return self.replayed.is_whole

    @property
    def is_as_expected(self) -> bool:
        """Whether all expectations are held, and some request was answered if one was then."""
        if not self.tally.in_time and self.recorded.in_time:
            return False
        return all(each.is_held for each in self.held)

    @property
    def warnings(self) -> list[str]:
        """What makes the figures doubtful."""
        found = list(self.problems)
        if self.is_whole and not self.tally.in_time and self.recorded.in_time:
            found.append("no request was answered in time, though some were when recorded")
        return [*found, *self.replayed.warnings]

    def to_json(self) -> dict[str, Any]:
        """Return it as data; docs/replay.md says what each key is."""
        return {
            "format": 1,
            "mlserve": __version__,
            "asked": self.asked,
            "endpoints": list(self.endpoints),
            "speed": self.speed,
            "is_whole": self.is_whole,
            "bodies": {origin.value: self.origins.get(origin, 0) for origin in Origin},
            "left_out": dict(self.left_out),
            "recorded": figures(self.recorded),
            "replayed": figures(self.tally),
            "lag_ms": percentiles_ms(self.tally.lag),
            "models": {
                name: {"recorded": figures(before), "replayed": figures(now)}
                for name, (before, now) in self.by_model.items()
            },
            "agreement": self.agreement.to_json(),
            "errors": [{"error": text, "requests": n} for text, n in self.errors.most_common()],
            "expected": [each.to_json() for each in self.held],
            "is_as_expected": self.is_as_expected,
            "warnings": self.warnings,
        }


def figures(tally: Tally) -> dict[str, Any]:
    """Return what became of requests as data: counts, goodput, and times in milliseconds."""
    count = tally.requests
    return {
        "seconds": round(tally.seconds, 3),
        "requests": count,
        "in_time": tally.in_time,
        "share_in_time": round(tally.in_time / count, 5) if count else None,
        "goodput": round(tally.goodput, 3),
        "late": tally.count(LATE),
        "expired": tally.count(EXPIRED),
        "left": tally.count(LEFT),
        "refused": tally.refused,
        "failed": tally.failed,
        "latency_ms": percentiles_ms(tally.answers),
        "stages_ms": {s: percentiles_ms(tally.stages[s]) for s in STAGES if s in tally.stages},
    }


def summary_json(summary: Summary, files: int, problems: list[str]) -> dict[str, Any]:
    """Return what a recording holds as data."""
    return {
        "requests": summary.requests,
        "in_time": summary.in_time,
        "with_bodies": summary.sampled,
        "first": in_utc(summary.first) if summary.requests else None,
        "last": in_utc(summary.last) if summary.requests else None,
        "seconds": round(summary.seconds, 3),
        "bytes_in": summary.bytes_in,
        "files": files,
        **{
            f"by_{name}": {value: count for (value,), count in summary.counts(name).most_common()}
            for name in ("model", "transport", "api", "priority", "token", "code", "refused")
        },
        "kinds": [
            {**kind._asdict(), "requests": count} for kind, count in summary.kinds.most_common(100)
        ],
        "problems": problems,
    }


def in_utc(seconds: float) -> str:
    """Return a Unix time in words: UTC, ISO 8601, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
