"""What `mlserve bench` prints as text: a line for each load, and what makes it doubtful below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlserve.bench.findings import NOTHING, milliseconds, outcomes, sentence, three_digits
from mlserve.cli.output import note, print_table, print_wrapped, say
from mlserve.wire.headers import STAGES

if TYPE_CHECKING:
    from mlserve.bench.find_rate import FoundRate
    from mlserve.bench.histogram import Histogram
    from mlserve.bench.measurement import Measurement
    from mlserve.bench.result import BenchResult
    from mlserve.bench.slo import Slo

_HEADER = ("target", "load", "in time/s", "p50 ms", "p99 ms", "p99.9", "cores", "MB", "latency")
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 12
_MEBIBYTE = 1 << 20


def print_result(result: BenchResult) -> None:
    """Print everything that was measured."""
    if result.measurements:
        _print_measurements(result.measurements, result.slo)
    _print_ratios(result)
    for found in result.found:
        _print_found(found)
    if result.measurements or result.found:
        say()
    print_wrapped(_about(result), "")
    if not result.is_whole:
        note("interrupted: this is what was measured until then")


def _print_measurements(measured: Sequence[Measurement], slo: Slo | None) -> None:
    print_table(
        _HEADER, [_row(each) for each in measured], [_below(each, slo) for each in measured]
    )


def _row(measured: Measurement) -> list[str]:
    answers = measured.tally.answers
    cores, pss = measured.server_cores, measured.pss
    return [
        measured.target.name,
        str(measured.load),
        f"{three_digits(measured.goodput)}{_spread(measured)}",
        *(milliseconds(answers.quantile(share)) for share in (0.5, 0.99, 0.999)),
        NOTHING if cores is None else f"{cores:.2f}",
        NOTHING if pss is None else f"{pss / _MEBIBYTE:.0f}",
        sparkline(answers),
    ]


def _below(measured: Measurement, slo: Slo | None) -> list[str]:
    """Return the lines under a load: what was not answered, the stages, the level, warnings."""
    lines = [outcomes(measured), _stages(measured)]
    if slo is not None:
        verdict = slo.judge(measured.tally)
        state = "held" if verdict.is_held else "not held"
        sure = "" if verdict.is_sure else ", which may be chance"
        lines.append(f"{verdict.level}: {state} ({verdict.share:.2%} of the requests{sure})")
    return [*filter(None, lines), *(f"warning: {text}" for text in measured.warnings)]


def _stages(measured: Measurement) -> str:
    medians = {
        stage: measured.tally.stages[stage].quantile(0.5)
        for stage in STAGES
        if stage in measured.tally.stages
    }
    told = [f"{stage} {milliseconds(value)}" for stage, value in medians.items()]
    return f"in the server, p50 ms: {', '.join(told)}" if told else ""


def _print_ratios(result: BenchResult) -> None:
    from mlserve.bench.result import ratios

    rows = ratios(result.measurements)
    if not rows:
        return
    say()
    say(f"as a multiple of {result.targets[0].name}")
    loads = [str(m.load) for m in result.measurements if m.target is not result.targets[0]]
    print_table(
        ("target", "load", "in time", "p50", "p99"),
        [
            [row["target"], load, *(_times(row[key]) for key in ("goodput", "p50", "p99"))]
            for row, load in zip(rows, loads, strict=True)
        ],
    )


def _print_found(found: FoundRate) -> None:
    say()
    print_wrapped(sentence(found), "")
    if found.probes:
        print_table(
            ("load", "in time/s", "within", "p50 ms", "p99 ms", "held"),
            [_probe(probe, found.slo) for probe in found.in_order],
        )


def _probe(probe: Measurement, slo: Slo) -> list[str]:
    verdict, answers = slo.judge(probe.tally), probe.tally.answers
    return [
        str(probe.load),
        three_digits(probe.goodput),
        f"{verdict.share:.2%}" if verdict.count else NOTHING,
        milliseconds(answers.quantile(0.5)),
        milliseconds(answers.quantile(0.99)),
        ("yes" if verdict.is_held else "no") if verdict.count else "no request came",
    ]


def _about(result: BenchResult) -> str:
    window = result.window
    return (
        f"each load: {result.repeat} x {window.seconds:g} s after {window.warm_up:g} s of warm-up, "
        f"{result.waits}; in time/s is the median of the repeats, with their spread; "
        "cores and MB are the server's, where it is on this machine"
    )


def _spread(measured: Measurement) -> str:
    """Return the half of the repeats' range, as a percentage of the median; empty for one."""
    spread = measured.spread(lambda tally: tally.goodput)
    if len(measured.tallies) == 1 or spread is None or not measured.goodput:
        return ""
    low, high = spread
    return f" ±{(high - low) / 2 / measured.goodput:.0%}"


def sparkline(times: Histogram) -> str:
    """Return the distribution up to the 99.9th percentile, on a log scale of time."""
    low, high = times.quantile(0.001), times.quantile(0.999)
    if not low or not high or high <= low:
        return ""
    counts = [0] * _COLUMNS
    step = math.log(high / low) / _COLUMNS
    for start, end, count in times.buckets():
        middle = (start + end) / 2
        if middle > 0:
            place = int(math.log(middle / low) / step) if middle > low else 0
            counts[min(_COLUMNS - 1, place)] += count
    top = max(counts)
    return "".join(_BARS[math.ceil(count / top * (len(_BARS) - 1))] for count in counts)


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"
