"""What a run of `mlserve bench` found, in sentences: for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mlserve.bench.find_rate import FoundRate
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult, ratio

NOTHING = "-"


def findings(result: BenchResult) -> list[str]:
    """Return the levels held, the rates found, what each load did, and what is doubtful."""
    said = [*_levels(result), *(sentence(found) + "." for found in result.found)]
    for load in dict.fromkeys(str(measured.load) for measured in result.measurements):
        said += _of_load(load, [each for each in result.measurements if str(each.load) == load])
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
    if found.rate is None:
        if found.above is None:
            return f"{found.target.name}: no rate was found, as no request was answered in time"
        return f"{name} at no rate that was tried, the lowest of them {found.above:.4g}/s"
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
    return text


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


def _levels(result: BenchResult) -> Iterator[str]:
    """Yield which loads hold the service level, and which do not."""
    if result.slo is None or not result.measurements:
        return
    missed = [
        (measured, verdict)
        for measured in result.measurements
        if not (verdict := result.slo.judge(measured.tally)).is_held
    ]
    if not missed:
        yield f"Every load holds {result.slo}."
    for measured, verdict in missed:
        sure = "" if verdict.is_sure else ", which may be chance"
        yield (
            f"{measured.target.name} does not hold {verdict.level} at {measured.load}: "
            f"{verdict.share:.2%} of the requests were within it{sure}."
        )


def _of_load(load: str, measured: list[Measurement]) -> Iterator[str]:
    """Yield what the targets did under one load, the others beside the first."""
    first, *others = measured
    yield f"At {load}, {first.target.name} {_figures(first)}."
    for each in others:
        times = [
            ratio(each.goodput, first.goodput),
            ratio(each.latency(0.5), first.latency(0.5)),
            ratio(each.latency(0.99), first.latency(0.99)),
        ]
        words = [
            f"{value:.2g} times the {name}"
            for value, name in zip(times, ("answers", "median", "p99"), strict=True)
            if value is not None
        ]
        beside = f": {', '.join(words)} of {first.target.name}" if words else ""
        yield f"At {load}, {each.target.name} {_figures(each)}{beside}."


def _figures(measured: Measurement) -> str:
    """Return the answers in time and their latency, and what was not answered."""
    text = f"answers {three_digits(measured.goodput)} requests a second in time"
    median, slow = measured.latency(0.5), measured.latency(0.99)
    if median is not None and slow is not None:
        text += f", half of them within {milliseconds(median)} ms and 99 % within "
        text += f"{milliseconds(slow)} ms"
    rest = outcomes(measured)
    return f"{text}; {rest}" if rest else text


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds with three digits; `-` for none."""
    return NOTHING if seconds is None else three_digits(seconds * 1000)


def three_digits(value: float) -> str:
    """Return a number in three digits, without a power of ten."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(3, max(0, digits))}f}"
