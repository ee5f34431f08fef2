"""The report of `mlserve bench --report`: one HTML page with tables and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from mlserve import __version__
from mlserve.bench.load import ClosedLoop, OpenLoop
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult, ratio
from mlserve.errors import readable
from mlserve.percentiles import OF_LOADS
from mlserve.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    PlotAxis,
    below,
    colour,
    document,
    horizontal,
    legend,
    line,
    svg,
    table,
    ticks,
)
from mlserve.wire.headers import STAGES

_NOTHING = "-"
_MEBIBYTE = 1 << 20
_LONGEST = 0.9999
"""The last part of the answers that the plot of latencies shows."""
_TAIL = (0.0, 0.5, 0.9, 0.99, 0.999)
_BAR = 22.0


def page(result: BenchResult) -> str:
    """Return the whole report: the figures, then plots of latency, rates and stages."""
    names = [target.name for target in result.targets]
    parts = [
        "<h1>mlserve bench</h1>",
        f'<p class="soft">{escape(_about(result))}</p>',
        "<h2>Figures</h2>",
        table(_HEADER, [_row(measured, result) for measured in result.all_measurements]),
    ]
    if warnings := _warnings(result):
        parts += ["<h2>Warnings</h2>", table(("target", "load", "warning"), warnings)]
    for load in dict.fromkeys(str(measured.load) for measured in result.measurements):
        of_load = [each for each in result.measurements if str(each.load) == load]
        parts += [f"<h2>Latency, {escape(load)}</h2>", _latency_plot(of_load, names)]
    parts += _rate_plots(result.all_measurements, names)
    if any(measured.tally.stages for measured in result.measurements):
        parts += ["<h2>Stages in the server, p50</h2>", _stage_plot(result.measurements)]
    parts.append(f'<p class="soft">mlserve {escape(__version__)}; {escape(result.started)}</p>')
    return document("mlserve bench", "\n".join(parts))


_HEADER = (
    *("target", "load", "requests", "in time/s", "x first", "not in time"),
    *(f"{name} ms" for name in OF_LOADS),
    *("cores", "CPU ms", "MB"),
)


def _row(measured: Measurement, result: BenchResult) -> list[str]:
    tally = measured.tally
    first = next(each for each in result.all_measurements if str(each.load) == str(measured.load))
    times = ratio(measured.goodput, first.goodput)
    missed = tally.requests - tally.in_time
    cpu = measured.server_cpu_a_request
    return [
        readable(measured.target.name),
        str(measured.load),
        str(tally.requests),
        f"{measured.goodput:.1f}",
        _NOTHING if times is None else f"{times:.2f}",
        str(missed),
        *(_ms(tally.answers.quantile(share)) for share in OF_LOADS.values()),
        _NOTHING if measured.server_cores is None else f"{measured.server_cores:.2f}",
        _ms(cpu),
        _NOTHING if measured.pss is None else f"{measured.pss / _MEBIBYTE:.0f}",
    ]


def _ms(seconds: float | None) -> str:
    return _NOTHING if seconds is None else f"{seconds * 1000:.4g}"


def _about(result: BenchResult) -> str:
    window = result.window
    return (
        f"Each load ran {result.repeat} x {window.seconds:g} s after {window.warm_up:g} s of "
        f"warm-up, the targets in turn; {result.waits}. Latencies of an open loop "
        "count from the planned moment. Cores and MB are the server's, where it is on the machine "
        "of the load."
    )


def _warnings(result: BenchResult) -> list[list[str]]:
    return [
        [readable(measured.target.name), str(measured.load), text]
        for measured in result.measurements
        for text in measured.warnings
    ]


def _latency_plot(measured: Sequence[Measurement], names: Sequence[str]) -> str:
    """Plot the share of answers within a time; the scale shows the tail (0, 50, 90, 99, 99.9 %)."""
    shown = [each for each in measured if len(each.tally.answers)]
    if not shown:
        return "<p>No request was answered.</p>"
    longest = max(each.latency(_LONGEST) or 0.0 for each in shown) * 1000
    across = PlotAxis(0.0, longest * 1.02 or 1.0, LEFT, WIDTH - RIGHT)
    up = PlotAxis(0.0, -math.log10(1 - _LONGEST), HEIGHT - BOTTOM, TOP)
    parts = [horizontal(up.place(-math.log10(1 - share)), f"{share:.5g}") for share in _TAIL]
    parts += [below(across.place(value), f"{value:g} ms") for value in ticks(longest or 1.0)]
    for each in shown:
        parts.append(line(_tail(each, across, up), names.index(each.target.name)))
    return svg("Share of answers within a time", [*parts, *_legend(shown, names)])


def _tail(measured: Measurement, across: PlotAxis, up: PlotAxis) -> list[tuple[float, float]]:
    answers = measured.tally.answers
    count, seen, points = len(answers), 0, []
    for _, high, number in answers.buckets():
        seen += number
        share = min(_LONGEST, seen / count)
        points.append(
            (min(across.end, across.place(high * 1000)), up.place(-math.log10(1 - share)))
        )
    return [(points[0][0], up.place(0.0)), *points]


def _rate_plots(measured: Sequence[Measurement], names: Sequence[str]) -> list[str]:
    """Plot goodput and p99 over the rates of open loops, and over the clients of closed ones."""
    parts: list[str] = []
    for kind, what in ((OpenLoop, "requests/s"), (ClosedLoop, "clients")):
        of_kind = [each for each in measured if isinstance(each.load, kind)]
        if len({_size(each) for each in of_kind}) < 2:  # noqa: PLR2004  a line has two ends
            continue
        parts += [f"<h2>Answers in time per second, over {what}</h2>"]
        parts.append(_plot(of_kind, names, lambda each: each.goodput, what))
        parts += [f"<h2>p99 in ms, over {what}</h2>"]
        parts.append(_plot(of_kind, names, lambda each: (each.latency(0.99) or 0.0) * 1000, what))
    return parts


def _size(measured: Measurement) -> float:
    load = measured.load
    return load.concurrency if isinstance(load, ClosedLoop) else load.rate


def _plot(
    measured: Sequence[Measurement],
    names: Sequence[str],
    value: Callable[[Measurement], float],
    what: str,
) -> str:
    most = max(map(_size, measured))
    highest = max(map(value, measured)) or 1.0
    across = PlotAxis(0.0, most * 1.02, LEFT, WIDTH - RIGHT)
    up = PlotAxis(0.0, highest * 1.05, HEIGHT - BOTTOM, TOP)
    parts = [horizontal(up.place(tick), f"{tick:g}") for tick in ticks(highest)]
    parts += [below(across.place(tick), f"{tick:g}") for tick in ticks(most)]
    for number, name in enumerate(names):
        own = sorted((each for each in measured if each.target.name == name), key=_size)
        points = [(across.place(_size(each)), up.place(value(each))) for each in own]
        parts.append(line(points, number))
        parts += [
            f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour(number)}"><title>'
            f"{escape(f'{name}, {each.load}: {value(each):.4g}')}</title></circle>"
            for (x, y), each in zip(points, own, strict=True)
        ]
    return svg(f"over {what}", [*parts, *_legend(measured, names)])


def _legend(measured: Sequence[Measurement], names: Sequence[str]) -> list[str]:
    shown = dict.fromkeys(each.target.name for each in measured)
    return legend([(names.index(name), name) for name in shown])


def _stage_plot(measured: Sequence[Measurement]) -> str:
    """Plot a bar for each target and load, of the medians of the stages one after the other."""
    shown = [each for each in measured if each.tally.stages]
    medians = [
        [(each.tally.stages[s].quantile(0.5) or 0.0) * 1000 for s in STAGES] for each in shown
    ]
    longest = max(map(sum, medians)) or 1.0
    across = PlotAxis(0.0, longest * 1.05, LEFT + 200, WIDTH - RIGHT)
    height = TOP + len(shown) * (_BAR + 6) + BOTTOM
    parts = [
        f'<text x="{across.place(tick)}" y="{height - 12}" text-anchor="middle">{tick:g} ms</text>'
        for tick in ticks(longest)
    ]
    for row, (each, values) in enumerate(zip(shown, medians, strict=True)):
        y, start = TOP + row * (_BAR + 6), 0.0
        name = escape(f"{readable(each.target.name)[:24]}, {each.load}")
        parts.append(f'<text x="{LEFT + 190}" y="{y + 15}" text-anchor="end">{name}</text>')
        for number, (stage, value) in enumerate(zip(STAGES, values, strict=True)):
            left, right = across.place(start), across.place(start + value)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{right - left:.1f}" height="{_BAR}" '
                f'fill="{colour(number)}"><title>{stage}: {value:.3g} ms</title></rect>'
            )
            start += value
    parts += legend(list(enumerate(STAGES)))
    return svg("Stages in the server", parts, height)
