"""What became of the requests of one load."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from mlserve.bench.histogram import Histogram
from mlserve.wire.headers import STAGES, read_server_timing

ANSWERED = ""
"""The kind of an answer; any other kind is that of an error."""
LATE = "late"
"""The kind of an answer that came after the timeout."""
EXPIRED = "deadline_exceeded"
LEFT = "left"
"""The kind of a request whose caller hung up before its answer, and had told no deadline."""
REFUSALS = ("overloaded", "unavailable")
"""Kinds by which a server says that it does not take the request now."""


def _histograms() -> defaultdict[str, Histogram]:
    return defaultdict(Histogram)


class End(NamedTuple):
    """How one request ended: its label and kind, and when it was planned and ended.

    Both in seconds from the beginning of the measured time; they may be before or after it.
    """

    planned: float
    ended: float
    kind: str
    label: str


@dataclass(slots=True)
class Tally:
    """The outcomes of the requests of a load, by kind: each with its latencies.

    `seconds` is the time that was measured, without the warm-up. `lag` is how much later than
    planned requests were sent. `generator_cpu` and `server_cpu` are seconds of CPU time in
    that time, of all processes; None if it is not known. `stages` are the server's, of a sample.
    `resent` requests met a connection that the server was closing, and were sent once more.
    `retried` is how often a client asked again because it had no answer. `ends` are all requests,
    where the load was to keep them.
    """

    seconds: float = 0.0
    latencies: defaultdict[str, Histogram] = field(default_factory=_histograms)
    stages: defaultdict[str, Histogram] = field(default_factory=_histograms)
    lag: Histogram = field(default_factory=Histogram)
    resent: int = 0
    retried: int = 0
    ends: list[End] = field(default_factory=list)
    generator_cpu: float = 0.0
    busiest_generator: float = 0.0
    server_cpu: float | None = None
    is_whole: bool = True

    def count(self, *kinds: str) -> int:
        """Return how many requests ended so."""
        return sum(len(self.latencies[kind]) for kind in kinds if kind in self.latencies)

    @property
    def requests(self) -> int:
        """How many requests ended."""
        return self.count(*self.latencies)

    @property
    def in_time(self) -> int:
        """How many were answered within the timeout."""
        return self.count(ANSWERED)

    @property
    def goodput(self) -> float:
        """Answers in time, per second."""
        return self.in_time / self.seconds if self.seconds else 0.0

    @property
    def answers(self) -> Histogram:
        """The latencies of all answers, also late ones."""
        return Histogram.merged(self.latencies[kind] for kind in (ANSWERED, LATE))

    @property
    def refused(self) -> dict[str, int]:
        """How many the server refused to take, by kind."""
        return {kind: count for kind in REFUSALS if (count := self.count(kind))}

    @property
    def failed(self) -> dict[str, int]:
        """How many failed in another way than by refusal or for lack of time, by kind."""
        known = (ANSWERED, LATE, EXPIRED, LEFT, *REFUSALS)
        return {kind: len(h) for kind, h in self.latencies.items() if kind not in known and len(h)}

    def take_stages(self, header: str) -> None:
        """Count the times of the stages in a Server-Timing header."""
        self.add_stages(read_server_timing(header))

    def add_stages(self, milliseconds: Mapping[str, float]) -> None:
        for stage in STAGES:
            if stage in milliseconds:
                self.stages[stage].add(milliseconds[stage] / 1000)

    def merge(self, other: Tally) -> None:
        """Add what another process saw in the same time."""
        self.seconds = max(self.seconds, other.seconds)
        for kind, histogram in other.latencies.items():
            self.latencies[kind].merge(histogram)
        for stage, histogram in other.stages.items():
            self.stages[stage].merge(histogram)
        self.lag.merge(other.lag)
        self.resent += other.resent
        self.retried += other.retried
        self.ends += other.ends
        self.generator_cpu += other.generator_cpu
        self.busiest_generator = max(self.busiest_generator, other.busiest_generator)
        if other.server_cpu is not None:
            self.server_cpu = (self.server_cpu or 0.0) + other.server_cpu
        self.is_whole = self.is_whole and other.is_whole

    @classmethod
    def of_processes(cls, parts: Iterable[Tally]) -> Self:
        """Return the sum of what several processes saw in the same time."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

    @classmethod
    def of_repeats(cls, parts: Iterable[Tally]) -> Self:
        """Return the sum of loads that ran one after the other."""
        parts = list(parts)
        whole = cls.of_processes(parts)
        whole.seconds = sum(part.seconds for part in parts)
        return whole
