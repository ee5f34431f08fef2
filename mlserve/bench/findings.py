"""What a run of `mlserve bench` found, in sentences: for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mlserve.bench.find_rate import FoundRate
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult, ratio
from mlserve.bench.slo import Slo
from mlserve.errors import counted
from mlserve.percentiles import in_digits

NOTHING = "-"
_LONGER = "measure longer (--duration)"
_FEW = 4
"""The most loads of which each has a sentence."""


def findings(result: BenchResult) -> list[str]:
    """Return the levels held, the rates found, what the loads did, and what is doubtful."""
    said = [*_levels(result), *(sentence(found) + "." for found in result.found)]
    said += _loads(result)
    doubtful = sum(bool(measured.warnings) for measured in result.measurements)
    if doubtful:
        said.append(
            f"{doubtful} of {len(result.measurements)} measurements are doubtful; the warnings say "
            "why."
        )
    if not result.is_whole:
        said.append("The run was interrupted: this is what was measured until then.")
    return said


def sentence(found: FoundRate) -> str:
    """Return what a search found, and how sure it is."""
    name = f"{found.target.name} holds {found.slo}"
    short = "" if found.unseen is None else f"; at {found.unseen:.4g}/s no request came: {_LONGER}"
    if found.rate is None:
        if found.above is None and not found.is_whole:
            return f"{found.target.name}: no rate was found before the interrupt"
        if found.above is not None:
            lowest = f"{found.above:.4g}/s{short}"
            return f"{name} at no rate that was tried, the lowest of them {lowest}"
        why = short or ", as no request was answered in time"
        return f"{found.target.name}: no rate was found{why}"
    text = f"{name} up to {found.rate:.4g}/s"
    if found.above is not None:
        text += f", and not at {found.above:.4g}/s"
    if found.verdict is not None:
        low, high = found.verdict.interval
        text += (
            f": held in {found.confirmed} of {found.confirmations} further loads, in which "
            f"{found.verdict.share:.2%} of the requests were within it (95 % sure: {low:.2%} to "
            f"{high:.2%})"
        )
    return text + short


def outcomes(measured: Measurement) -> str:
    """Return what became of the requests without an answer in time; empty if there are none."""
    tally = measured.tally
    counts = {
        "late": tally.count("late"),
        "without an answer in time": tally.count("deadline_exceeded"),
        "given up by their callers": tally.count("left"),
        **{f"refused ({kind})": count for kind, count in tally.refused.items()},
        **{f"failed ({kind})": count for kind, count in tally.failed.items()},
        "sent once more": tally.resent,
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return f"of {tally.requests} requests {', '.join(told)}" if told else ""


def no_answer(result: BenchResult) -> str:
    """Return in which load no request was answered, and what became of them; empty for none."""
    if not (unanswered := result.unanswered):
        return ""
    first, *others = unanswered
    more = f", nor in {counted(len(others), 'further load')}" if others else ""
    what = outcomes(first) or f"none ended in the measured time; {_LONGER}"
    return f"no request was answered: {first.target.name} at {first.load}{more} ({what})"


def _levels(result: BenchResult) -> Iterator[str]:
    """Yield which loads hold the service level, and of each target those that do not."""
    slo = result.slo
    if slo is None or not result.measurements:
        return
    missed = [each for each in result.measurements if not slo.judge(each.tally).is_held]
    if not missed:
        yield f"Every load holds {slo}."
    for name in dict.fromkeys(each.target.name for each in missed):
        loads = [_missed(each, slo) for each in missed if each.target.name == name]
        yield f"{name} does not hold {slo} at {'; '.join(loads)}."


def _missed(measured: Measurement, slo: Slo) -> str:
    verdict = slo.judge(measured.tally)
    chance = "" if verdict.is_sure else ", which may be chance"
    part = f"{verdict.share:.2%} of the requests within {verdict.level.seconds * 1000:g} ms"
    return f"{measured.load} ({part}{chance})"


def _loads(result: BenchResult) -> Iterator[str]:
    """Yield what the targets did under each load, or under the best of many."""
    by_load: dict[str, list[Measurement]] = {}
    for measured in result.measurements:
        by_load.setdefault(str(measured.load), []).append(measured)
    if len(by_load) <= _FEW:
        for load, of_load in by_load.items():
            yield f"At {load}: {'; '.join(_figures(each, of_load[0]) for each in of_load)}."
            yield from _unanswered(load, of_load)
        return
    for target in result.targets:
        own = [each for each in result.measurements if each.target.name == target.name]
        best = max(own, key=lambda each: each.goodput)
        yield f"{_figures(best, best)}, at {best.load}; at no other load more."


def _figures(measured: Measurement, first: Measurement) -> str:
    """Return the answers in time and their latency, beside those of the first target."""
    name, goodput = measured.target.name, three_digits(measured.goodput)
    text = f"{name} answers {goodput} requests a second in time{_beside(measured, first)}"
    for mark, share in (("p50", 0.5), ("p99", 0.99)):
        if (latency := measured.latency(share)) is not None:
            text += f", {mark} {milliseconds(latency)} ms{_beside(measured, first, share)}"
    return text


def _beside(measured: Measurement, first: Measurement, share: float | None = None) -> str:
    """Return a figure as a multiple of the first target's: goodput, or the latency of a share."""
    if measured is first:
        return ""
    figures = [each.goodput if share is None else each.latency(share) for each in (measured, first)]
    times = ratio(*figures)
    return "" if times is None else f" ({in_digits(times, 2)} times that)"


def _unanswered(load: str, measured: list[Measurement]) -> Iterator[str]:
    told = [f"{each.target.name}: {rest}" for each in measured if (rest := outcomes(each))]
    if told:
        yield f"Not answered at {load}: {'; '.join(told)}."


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds with three digits; `-` for none."""
    return NOTHING if seconds is None else three_digits(seconds * 1000)


def three_digits(value: float) -> str:
    """Return a number in three digits, without a power of ten."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(3, max(0, digits))}f}"
