"""The report of `mlserve bench --report`: one HTML page with sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mlserve.bench.findings import NOTHING, findings
from mlserve.bench.histogram import Histogram
from mlserve.bench.load import ClosedLoop, OpenLoop
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult, ratio
from mlserve.bench.target import Target
from mlserve.errors import counted, readable
from mlserve.percentiles import OF_LOADS, in_digits
from mlserve.report import page as html
from mlserve.report.bars import Bar, bars
from mlserve.report.machine import how_it_was_made
from mlserve.report.page import Markup, Section, legend, paragraph, table
from mlserve.report.plots import HOW_TO_READ, MARKED, Series, Times, cumulative, series, time_text
from mlserve.wire.headers import STAGES

_MEBIBYTE = 1 << 20
_ABOUT = (
    "Latencies and CPU time are in ms; those of an open loop count from the planned moment. Missed "
    "are requests without an answer in time. Cores and MB are the server's, where "
    "it is on the machine of the load."
)
_SHOWN = {name: share for name, share in OF_LOADS.items() if name != "p90"}
"""The percentiles of the table, which has to fit the page."""
_HEADER = (
    *("target", "load", "requests", "in time/s", "x first", "missed"),
    *_SHOWN,
    *("cores", "CPU", "MB"),
)


def page(result: BenchResult, command: str = "") -> str:
    """Return the whole report; `command` is the command line that makes it again."""
    rows = [_row(measured, result) for measured in result.all_measurements]
    figures = [paragraph(_ABOUT, "soft"), table("Figures of each load", _HEADER, rows, "plain")]
    sections = [Section("Figures", figures)]
    if warnings := _warnings(result):
        header = ("target", "load", "warning")
        sections += [Section("Warnings", [table("Warnings", header, warnings)])]
    sections += _sections(result)
    head = [*_verdict(result), html.findings(map(readable, findings(result)))]
    how = how_it_was_made(command, _facts(result))
    title = html.titled([target.name for target in result.targets], "server", "under load")
    return html.document(title, head, [*sections, how])


def _sections(result: BenchResult) -> Iterator[Section]:
    """Yield the plots: latencies of each load, figures over the loads, stages, memory."""
    names = [target.name for target in result.targets]
    loads = dict.fromkeys(str(measured.load) for measured in result.measurements)
    if loads:
        parts = [paragraph(HOW_TO_READ, "soft")]
        for load in loads:
            of_load = [each for each in result.measurements if str(each.load) == load]
            parts += [Markup(f"<h3>{html.markup(load)}</h3>"), _latencies(of_load, names)]
        yield Section("Latency", parts)
    yield from _over_loads(result.all_measurements, names)
    staged = [each for each in result.measurements if each.tally.stages]
    if staged:
        about = "The median of each stage in the server, one after the other."
        keys = legend(list(enumerate(STAGES)), "box")
        yield Section("Stages in the server", [paragraph(about, "soft"), keys, _stages(staged)])
    if any(each.pss is not None for each in result.all_measurements):
        about = (
            "The most that the server's processes took in any load; what they share counts once."
        )
        yield Section("Memory", [paragraph(about, "soft"), _memory(result.all_measurements, names)])


def _verdict(result: BenchResult) -> list[Markup]:
    """Return the line that says whether the service level is held, if there is one."""
    if result.slo is None:
        return []
    if result.holds_slo:
        return [paragraph(f"held: {result.slo}", "verdict same")]
    return [paragraph(f"not held: {result.slo}", "verdict different")]


def _row(measured: Measurement, result: BenchResult) -> list[str]:
    tally = measured.tally
    first = next(each for each in result.all_measurements if str(each.load) == str(measured.load))
    times = ratio(measured.goodput, first.goodput)
    return [
        readable(measured.target.name),
        str(measured.load),
        str(tally.requests),
        f"{measured.goodput:.1f}",
        NOTHING if times is None else f"{times:.2f}",
        str(tally.requests - tally.in_time),
        *(_ms(tally.answers.quantile(share)) for share in _SHOWN.values()),
        NOTHING if measured.server_cores is None else f"{measured.server_cores:.2f}",
        _ms(measured.server_cpu_a_request),
        NOTHING if measured.pss is None else f"{measured.pss / _MEBIBYTE:.0f}",
    ]


def _ms(seconds: float | None) -> str:
    return NOTHING if seconds is None else in_digits(seconds * 1000, 4)


def _warnings(result: BenchResult) -> list[list[str]]:
    return [
        [readable(measured.target.name), str(measured.load), text]
        for measured in result.measurements
        for text in measured.warnings
    ]


def _latencies(measured: Sequence[Measurement], names: Sequence[str]) -> Markup:
    """Plot the share of answers within a time, of each target under one load."""
    found = [(each.target.name, each.tally.answers) for each in measured]
    return cumulative(
        [_times(name, names.index(name), answers) for name, answers in found if len(answers)]
    )


def _times(name: str, number: int, answers: Histogram) -> Times:
    """Return the times in the middle of each bucket, with the share of answers up to there."""
    count, seen, points = len(answers), 0, list[tuple[float, float]]()
    for low, high, of_bucket in answers.buckets():
        middle = min((low + high) / 2, answers.largest) * 1000
        if not points and of_bucket > 1:
            points.append((middle, 0.0))  # the line begins at the fastest
        seen += of_bucket
        points.append((middle, (seen - 1) / (count - 1) if count > 1 else 0.5))
    marks = {mark: (answers.quantile(share) or 0.0) * 1000 for mark, share in MARKED.items()}
    return Times(readable(name), number, count, points, marks)


def _over_loads(measured: Sequence[Measurement], names: Sequence[str]) -> Iterator[Section]:
    """Yield goodput and p99 over the rates of open loops, and over the clients of closed ones."""
    for kind, title, what in (
        (OpenLoop, "Rates", "requests a second"),
        (ClosedLoop, "Clients", "clients"),
    ):
        of_kind = [each for each in measured if isinstance(each.load, kind)]
        if len({_size(each) for each in of_kind}) < 2:  # noqa: PLR2004  a line has two ends
            continue
        rate = Markup(f"<h3>Answers in time per second, over {what}</h3>")
        slow = Markup(f"<h3>The time within which 99 % are answered, over {what}</h3>")
        yield Section(
            title,
            [
                rate,
                series(f"Answers in time, over {what}", _series(of_kind, names, _goodput), _plain),
                slow,
                series(f"p99, over {what}", _series(of_kind, names, _p99), time_text),
            ],
        )


def _series(
    measured: Sequence[Measurement],
    names: Sequence[str],
    value: Callable[[Measurement], float | None],
) -> list[Series]:
    found = []
    for number, name in enumerate(names):
        own = sorted((each for each in measured if each.target.name == name), key=_size)
        points = [
            (_size(each), figure, f"{readable(name)}, {each.load}")
            for each in own
            if (figure := value(each)) is not None
        ]
        if points:
            found.append(Series(readable(name), number, points))
    return found


def _goodput(measured: Measurement) -> float:
    return measured.goodput


def _p99(measured: Measurement) -> float | None:
    """Return it in milliseconds; None without an answer."""
    latency = measured.latency(0.99)
    return None if latency is None else latency * 1000


def _plain(value: float) -> str:
    return f"{value:g}"


def _size(measured: Measurement) -> float:
    load = measured.load
    return load.concurrency if isinstance(load, ClosedLoop) else load.rate


def _stages(measured: Sequence[Measurement]) -> Markup:
    found = []
    for each in measured:
        medians = [(each.tally.stages[stage].quantile(0.5) or 0.0) * 1000 for stage in STAGES]
        parts = [
            (number, value, f"{stage}: {time_text(value)}")
            for number, (stage, value) in enumerate(zip(STAGES, medians, strict=True))
        ]
        name = f"{readable(each.target.name)}, {each.load}"
        found.append(Bar(name, time_text(sum(medians)), parts))
    return bars(found)


def _memory(measured: Sequence[Measurement], names: Sequence[str]) -> Markup:
    found = []
    for number, name in enumerate(names):
        known = [each.pss for each in measured if each.target.name == name and each.pss is not None]
        if not known:
            found.append(Bar(readable(name), "not known"))
            continue
        text = f"{max(known) / _MEBIBYTE:.0f} MB"
        found.append(Bar(readable(name), text, [(number, max(known), text)]))
    return bars(found)


def _facts(result: BenchResult) -> list[tuple[str, str]]:
    """Return what was asked, and how."""
    window = result.window
    facts = [(readable(target.name), _about(target)) for target in result.targets]
    asked = (
        f"each load {result.repeat} x {window.seconds:g} s after {window.warm_up:g} s of warm-up, "
        f"the targets in turn; {result.waits}; seed {window.seed}; begun {result.started}"
    )
    return [*facts, ("asked", asked)]


def _about(target: Target) -> str:
    known = [
        str(target.endpoint),
        target.api or "HTTP",
        f"model {readable(target.model)}" if target.model else "",
        counted(len(target.requests), "different request"),
    ]
    return "; ".join(filter(None, known))
