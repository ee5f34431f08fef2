"""Choose the winner among measured candidates: what is within the noise never beats the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import median
from typing import Any

from mlserve.certificate.verdict import Verdict as GoldenVerdict
from mlserve.errors import MlserveError
from mlserve.load_options import LoadOptions
from mlserve.tune.preference import Preference

REPEATS = 3
"""Measurements of the default and of a winner, each of a server of its own."""
LEAST_GAIN = 0.03
"""The least gain that counts, however alike the repeats are."""
_BEARABLE = 0.10
"""How much of the other figure a winner may lose, if that is more than the noise."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Answers a second, and how long they took, in milliseconds."""

    rate: float
    p50: float
    p99: float

    def to_json(self) -> dict[str, float]:
        return {
            "answers_per_second": round(self.rate, 2),
            "p50_ms": round(self.p50, 3),
            "p99_ms": round(self.p99, 3),
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """What one server did: to one client that asks again and again, and to many at once.

    `memory` is in bytes; None if it is not known. `golden` is what it answered to the golden inputs
    of the model; None if there are none.
    """

    alone: Figures
    crowded: Figures
    memory: int | None
    ready_seconds: float
    golden: GoldenVerdict | None = None

    def to_json(self) -> dict[str, Any]:
        golden = self.golden
        return {
            "one_client": self.alone.to_json(),
            "many_clients": self.crowded.to_json(),
            "memory_bytes": self.memory,
            "ready_seconds": round(self.ready_seconds, 3),
            "golden": None
            if golden is None
            else {
                "inputs": len(golden.cases),
                "wrong": len(golden.problems),
                "labels_changed": sum(case.is_label_changed for case in golden.cases),
                "difference": golden.difference if isfinite(golden.difference) else None,
            },
        }


@dataclass(slots=True)
class Tried:
    """A candidate and what was measured of it; without samples, `failure` may say why."""

    options: LoadOptions
    samples: list[Sample] = field(default_factory=list)
    failure: MlserveError | None = None

    @property
    def throughput(self) -> float:
        """Answers a second to many clients."""
        return self.middle(_throughput)

    @property
    def latency(self) -> float:
        """Milliseconds of the median answer to one client."""
        return self.middle(_latency)

    @property
    def memory(self) -> int | None:
        """Bytes of the server's memory; None if it is not known."""
        known = [sample.memory for sample in self.samples if sample.memory is not None]
        return int(median(known)) if known else None

    def middle(self, figure: Callable[[Sample], float]) -> float:
        """Return the median of a figure over the samples."""
        return median(map(figure, self.samples))

    def spread(self, figure: Callable[[Sample], float]) -> float:
        """Return how far apart the samples of a figure lie, as a part of their median."""
        values = [figure(sample) for sample in self.samples]
        return (max(values) - min(values)) / median(values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The winner, what it gains, and for each candidate, in their order, why it won or lost.

    `gain` is empty if the default won.
    """

    winner: Tried
    gain: str
    reasons: Sequence[str]


def _throughput(sample: Sample) -> float:
    return sample.crowded.rate


def _latency(sample: Sample) -> float:
    return sample.alone.p50


@dataclass(frozen=True, slots=True)
class _Measure:
    """One of the two figures that decide; of `speed`, more is better."""

    figure: Callable[[Sample], float]
    is_rate: bool
    better: str
    worse: str

    def gain(self, tried: Tried, default: Tried) -> float:
        """Return by how much the candidate is better than the default: 0.1 is a tenth."""
        its, usual = tried.middle(self.figure), default.middle(self.figure)
        return (its / usual if self.is_rate else usual / its) - 1

    def noise(self, tried: Tried, default: Tried) -> float:
        """Return the gain that could be chance."""
        return max(LEAST_GAIN, tried.spread(self.figure), default.spread(self.figure))

    def in_words(self, gain: float) -> str:
        """Say how much better or worse that is."""
        change = gain if self.is_rate else 1 / (1 + gain) - 1
        return f"{abs(change):.0%} {self.better if gain >= 0 else self.worse}"


_RATE = _Measure(_throughput, is_rate=True, better="more answers/s", worse="fewer answers/s")
_TIME = _Measure(
    _latency, is_rate=False, better="less time for one client", worse="more time for one client"
)


def ranked(tried: Sequence[Tried], prefer: Preference) -> list[Tried]:
    """Return the candidates that may beat the default, which is the first of `tried`, best first.

    Each needs one sample only: who comes first here is measured again.
    """
    default, *others = tried
    main, other = _measures(prefer)
    fits = [
        each
        for each in others
        if each.samples
        and each.failure is None
        and main.gain(each, default) > 0
        and other.gain(each, default) > -2 * _BEARABLE
    ]
    return sorted(fits, key=lambda each: main.gain(each, default), reverse=True)


def judge(tried: Sequence[Tried], prefer: Preference) -> Verdict:
    """Choose the winner; the first of `tried` is the default, and has been measured.

    It wins unless another one is better at what is preferred by more than the repeats differ, and
    does not lose too much of the other figure. Among those that are as good as the best, the one
    with the least memory wins.
    """
    default = tried[0]
    main, _ = _measures(prefer)
    lost = {id(each): _why_lost(each, default, prefer) for each in tried}
    better = [each for each in tried if each is not default and lost[id(each)] is None]
    best = max(better, key=lambda each: main.gain(each, default), default=default)
    alike = [each for each in better if -main.gain(each, best) <= main.noise(each, best)]
    winner = min(alike, key=_cost, default=default)
    gain = "" if winner is default else _gain(winner, default, prefer)

    def reason(each: Tried) -> str:
        if each is winner:
            is_alone = not any(other.samples or other.failure for other in tried[1:])
            no_gain = "nothing else was tried" if is_alone else "nothing is better beyond the noise"
            return f"winner: {gain or no_gain}"
        if each is default:
            return "default"
        if (why := lost[id(each)]) is not None:
            return why
        gained = main.in_words(main.gain(each, default))
        if each in alike:
            return f"{gained}: as good as the winner, with more memory"
        return f"{gained}: less than the winner"

    return Verdict(winner, gain, [reason(each) for each in tried])


def so_far(tried: Sequence[Tried], prefer: Preference) -> Verdict:
    """Say what was measured until an interrupt; nothing has won, and so the default stays."""
    default = tried[0]
    main, _ = _measures(prefer)

    def reason(each: Tried) -> str:
        if each is default:
            return "default"
        if each.failure is not None:
            return _failed(each.failure)
        if not each.samples:
            return "not tried: interrupted"
        return f"{main.in_words(main.gain(each, default))} so far"

    return Verdict(default, "", [reason(each) for each in tried])


def _cost(tried: Tried) -> tuple[float, int]:
    return (tried.memory or 0, len(tried.options.changed))


def _measures(prefer: Preference) -> tuple[_Measure, _Measure]:
    return (_RATE, _TIME) if prefer is Preference.THROUGHPUT else (_TIME, _RATE)


def _why_lost(tried: Tried, default: Tried, prefer: Preference) -> str | None:
    """Return why a candidate does not beat the default; None if it does, or is the default."""
    if tried.failure is not None:
        return _failed(tried.failure)
    if not tried.samples:
        return "not tried: no time left"
    return None if tried is default else _why_no_better(tried, default, prefer)


def _failed(failure: MlserveError) -> str:
    return f"failed: {failure.message}"


def _why_no_better(tried: Tried, default: Tried, prefer: Preference) -> str | None:
    main, other = _measures(prefer)
    gain, noise = main.gain(tried, default), main.noise(tried, default)
    loss = other.gain(tried, default)
    said = main.in_words(gain)
    if gain <= 0:
        return said
    if gain <= noise:
        return f"{said}, within the noise of {noise:.0%}"
    if loss < -max(_BEARABLE, other.noise(tried, default)):
        return f"{said}, but {other.in_words(loss)}"
    if len(tried.samples) < REPEATS or len(default.samples) < REPEATS:
        return f"{said} when measured once: others did better"
    return None


def _gain(winner: Tried, default: Tried, prefer: Preference) -> str:
    return ", ".join(each.in_words(each.gain(winner, default)) for each in _measures(prefer))
