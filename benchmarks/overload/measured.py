"""The figures of one case: what was answered, as a share of the capacity, and what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cases import Case

from mlserve.bench.measurement import refusals
from mlserve.bench.tally import ANSWERED, EXPIRED, LATE, LEFT, End, Tally

STEADY = 3.0
"""Seconds after which a server must know what it is in for."""
_BIN = 0.5
"""Seconds of a step of the course."""


@dataclass(frozen=True)
class Capacity:
    """Answers a second without overload: just before the load, and just after it.

    `cpu` is the CPU time of the server for one of them, in seconds.
    """

    before: float
    after: float
    cpu: float | None = None

    @property
    def mean(self) -> float:
        """The mean of both."""
        return (self.before + self.after) / 2


@dataclass
class Figures:
    """What one case measured. `of_case` are the figures that only cases of its kind have."""

    case: Case
    capacity: Capacity
    rate: float
    tally: Tally
    work: Mapping[str, int]
    idle_after: float
    of_case: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The answers within the measured time, as a share of the capacity."""
        return answers_between(self.tally.ends, 0.0, self.tally.seconds) / self.capacity.mean

    @property
    def steady_share(self) -> float:
        """The same from the third second on."""
        seconds = self.tally.seconds
        if seconds <= STEADY:
            return self.share
        return answers_between(self.tally.ends, STEADY, seconds) / self.capacity.mean

    @property
    def attainment(self) -> float:
        """The share of the calls that were answered in time."""
        return attainment(self.tally.ends, lambda end: 0.0 <= end.planned < self.tally.seconds)

    @property
    def wasted(self) -> float:
        """The share of the work that was done for nobody: of the calls that were started."""
        started = sum(self.work.values())
        return 1 - self.work.get("answered", 0) / started if started else 0.0

    @property
    def refusal_cpu(self) -> float | None:
        """Seconds of CPU that the server took for a call that it did not answer; None if unknown.

        It is what is left of its time without that of the answers, which the capacity shows.
        """
        tally, unanswered = self.tally, self.tally.requests - self.tally.in_time
        if tally.server_cpu is None or self.capacity.cpu is None or not unanswered:
            return None
        return (tally.server_cpu - tally.in_time * self.capacity.cpu) / unanswered

    def figure(self, name: str) -> float:
        """Return the figure of that name. Raises KeyError for one that this case does not have."""
        if name in self.of_case:
            return self.of_case[name]
        return {
            "share": lambda: self.share,
            "steady_share": lambda: self.steady_share,
            "attainment": lambda: self.attainment,
            "wasted": lambda: self.wasted,
            "late": lambda: float(self.tally.count(LATE)),
        }[name]()

    @property
    def misses(self) -> list[str]:
        """The targets that were not reached, in words."""
        return [
            f"{goal.figure} {self.figure(goal.figure):.3f}, wanted {goal}"
            for goal in self.case.targets
            if not goal.is_met(self.figure(goal.figure))
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all figures as data; times in seconds."""
        tally = self.tally
        return {
            "case": self.case.name,
            "about": self.case.about,
            "model": self.case.model,
            "transport": self.case.transport,
            "times": self.case.times,
            "seconds": tally.seconds,
            "rate": round(self.rate, 2),
            "capacity": [round(self.capacity.before, 3), round(self.capacity.after, 3)],
            "share": round(self.share, 4),
            "steady_share": round(self.steady_share, 4),
            "attainment": round(self.attainment, 5),
            "wasted": round(self.wasted, 4),
            **{name: round(value, 4) for name, value in self.of_case.items()},
            "ended": ended(tally),
            "retried": tally.retried,
            "answer_p50": tally.answers.quantile(0.5),
            "answer_p99": tally.answers.quantile(0.99),
            "refusal_p99": refusals(tally).quantile(0.99),
            "refusal_cpu": self.refusal_cpu,
            "idle_after": round(self.idle_after, 3),
            "server_cores": None if tally.server_cpu is None else tally.server_cpu / tally.seconds,
            "generator_cores": tally.generator_cpu / tally.seconds,
            "generator_lag": tally.lag.quantile(0.99),
            "course": course(tally.ends, tally.seconds),
            "targets": {str(goal.figure): str(goal) for goal in self.case.targets},
            "misses": self.misses,
        }


def answers_between(ends: Iterable[End], start: float, end: float) -> float:
    """Return the answers in time that came in those seconds, a second."""
    count = sum(each.kind == ANSWERED and start <= each.ended < end for each in ends)
    return count / (end - start)


def attainment(ends: Iterable[End], is_meant: Callable[[End], bool]) -> float:
    """Return the share of those calls that were answered in time; 1 for none."""
    kinds = [end.kind for end in ends if is_meant(end)]
    return kinds.count(ANSWERED) / len(kinds) if kinds else 1.0


def ended(tally: Tally) -> dict[str, int]:
    """Return how many calls ended in each way."""
    return {
        "in time": tally.in_time,
        "late": tally.count(LATE),
        "refused": sum(tally.refused.values()),
        "no answer in time": tally.count(EXPIRED),
        "left": tally.count(LEFT),
        "failed": sum(tally.failed.values()),
    }


def course(ends: Sequence[End], seconds: float) -> dict[str, list[float]]:
    """Return, for each half second: arrivals and answers a second, and the share answered.

    The share is that of the calls which arrived then, whenever they were answered.
    """
    arrived, answered, in_time = Counter[int](), Counter[int](), Counter[int]()
    for end in ends:
        arrived[int(end.planned // _BIN)] += 1
        if end.kind == ANSWERED:
            answered[int(end.ended // _BIN)] += 1
            in_time[int(end.planned // _BIN)] += 1
    bins = range(int(seconds / _BIN))
    return {
        "arrivals": [arrived[number] / _BIN for number in bins],
        "answers": [answered[number] / _BIN for number in bins],
        "attainment": [round(in_time[n] / arrived[n], 4) if arrived[n] else 1.0 for n in bins],
    }


def ideal_answers(
    planned: Sequence[float], capacity: float, wait: float, at_once: int
) -> list[bool]:
    """Return which of the calls a server without overheads would have answered in time.

    `planned` are their moments in order. It answers in that order, `at_once` at the same time, and
    starts none that would be late. With one deadline for all and equal calls, nobody could answer
    more.
    """
    run, free = at_once / capacity, [0.0] * at_once
    found = []
    for moment in planned:
        slot = min(range(at_once), key=free.__getitem__)
        done = max(free[slot], moment) + run
        found.append(done <= moment + wait)
        if found[-1]:
            free[slot] = done
    return found
