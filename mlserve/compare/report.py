"""The report of a comparison as one HTML page: what images and tables have in common.

What is theirs alone is in `images_report` and `rows_report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mlserve.compare.findings import Findings, latency_sentence
from mlserve.compare.result import Comparison, TargetResult
from mlserve.compare.tables import MEBIBYTE, NOTHING, agreement, verdict
from mlserve.errors import counted, readable
from mlserve.percentiles import Percentiles
from mlserve.report import page as html
from mlserve.report.bars import Bar, bars
from mlserve.report.machine import how_it_was_made
from mlserve.report.page import Markup, Section, paragraph, table
from mlserve.report.plots import FEWEST, HOW_TO_READ, Times, cumulative, time_text

_ABOUT_TIMES = (
    "One request with one {what} at a time. All targets are asked in turn about each, so that all "
    "see the same machine."
)
_MEMORY = Markup("<h3>Resident memory of the server, after all requests</h3>")
_START = Markup("<h3>From the start of the process to the first answer</h3>")


def document(
    found: Comparison,
    said: Sequence[Findings],
    sections: Sequence[Section],
    asked: str,
    command: str,
) -> str:
    """Return the page: the verdict and the findings, `sections` on the answers, and the costs.

    `asked` is what the targets were asked about, `command` what makes the page again.
    """
    kind = "same" if found.is_same else "different"
    head = [paragraph(verdict(found), f"verdict {kind}"), *_findings(found, said)]
    costs = [Section("Latency", _latency(found)), Section("Memory and start", _bars(found))]
    how = how_it_was_made(command, _facts(found, asked))
    names = [result.target.name for result in found.targets]
    title = html.titled(names, "target", "compared")
    return html.document(title, head, [*sections, *costs, how])


def _findings(found: Comparison, said: Sequence[Findings]) -> list[Markup]:
    """Return the sentences; those of several targets stand under the name of each."""
    latency = latency_sentence(found)
    if len(said) == 1:
        return [html.findings(filter(None, [*said[0].sentences, latency]))]
    parts = []
    for each in said:
        parts += [Markup(f"<h2>{escape(readable(each.target))}</h2>")]
        parts += [html.findings(each.sentences)]
    return [*parts, *([paragraph(latency)] if latency else [])]


def _latency(found: Comparison) -> list[Markup]:
    """Return the plot of all times, and their percentiles as numbers."""
    timed = [
        Times.from_values(readable(result.target.name), number, result.milliseconds)
        for number, result in enumerate(found.targets)
        if result.milliseconds
    ]
    what = "image" if found.noun == "image" else "batch of rows"
    header = ("target", "answers", "p50", "p95", "p99", "slowest")
    rows = [_times_row(result) for result in found.targets]
    return [
        paragraph(f"{_ABOUT_TIMES.format(what=what)} {HOW_TO_READ}", "soft"),
        cumulative(timed),
        table("Percentiles of the latency", header, rows, "plain"),
    ]


def _times_row(result: TargetResult) -> list[str]:
    """Return the figures of a target; few answers have no percentile but their median."""
    values = result.milliseconds
    name, count, texts = readable(result.target.name), str(len(values)), [NOTHING] * 4
    times = Percentiles.from_values(values)
    if times is not None:
        tail = [NOTHING] * 2 if len(values) < FEWEST else map(time_text, (times.p95, times.p99))
        texts = [time_text(times.p50), *tail, time_text(max(values))]
    return [name, count, *texts]


def _bars(found: Comparison) -> list[Markup]:
    """Return the memory and the time to the first answer of each server."""
    memory, start = [], []
    for number, result in enumerate(found.targets):
        name, rss, ready = readable(result.target.name), result.rss, result.ready_seconds
        megabytes = None if rss is None else rss / MEBIBYTE
        memory.append(_bar(name, number, megabytes, "{:.0f} MB"))
        start.append(_bar(name, number, ready, "{:.1f} s"))
    return [_MEMORY, bars(memory), _START, bars(start)]


def _bar(name: str, number: int, value: float | None, form: str) -> Bar:
    """Return a target's bar; of an endpoint nothing is known."""
    if value is None:
        return Bar(name, "not known")
    text = form.format(value)
    return Bar(name, text, [(number, value, text)])


def _facts(found: Comparison, asked: str) -> list[tuple[str, str]]:
    """Return what each target is, and how it was asked."""
    facts = [(readable(result.target.name), _about(found, result)) for result in found.targets]
    times = counted(found.runs, "time")
    return [*facts, ("asked", f"{asked}, each {times}; tolerance {found.tolerance:g}")]


def _about(found: Comparison, result: TargetResult) -> str:
    """Return a target's model, what runs it, when it was exported, and how much of it agrees."""
    target = result.target
    manifest = target.artifact.manifest if target.artifact else None
    known = [
        f"model {readable(target.model)}" if target.model else "",
        readable(result.runs_on) if result.runs_on else target.precision or "",
        f"exported {manifest.created[:10]} by mlserve {manifest.mlserve}" if manifest else "",
        "an endpoint" if target.endpoint else "",
        "" if result is found.targets[0] else f"{agreement(found, result)} of the answers agree",
    ]
    return "; ".join(filter(None, known))
