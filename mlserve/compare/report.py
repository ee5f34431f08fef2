"""Report of a comparison: tables (also for the terminal), plots, and one HTML page.

What it shows of tables is in `rows_report`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from mlserve import __version__, plots
from mlserve.compare.result import (
    STAGES,
    Comparison,
    Difference,
    ImageComparison,
    ImagesResult,
    Row,
    TargetResult,
    badness,
)
from mlserve.errors import counted, readable
from mlserve.percentiles import Percentiles
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
    horizontal,
    legend,
    line,
    svg,
    table,
    ticks,
)

DIFFERENCE_HEADER = ("target", "labels", *STAGES, "end to end", "mean")
COST_HEADER = (
    "target",
    "precision",
    "agreement",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "rss MB",
    "ready s",
)
IMAGE_HEADER = ("target", "answer", *STAGES, "end to end", "image")
PROBLEM_HEADER = ("target", "image", "what differs")
_WORST = 5
_NOTHING = "-"
_MEBIBYTE = 1 << 20
_CAPTION = "images in the order given; equal scores lie on the lowest line; dashed: the tolerance"
_ABOUT = (
    "Labels and largest differences are from the first target. Times are those of one request at a "
    "time, all targets asked in turn about each image."
)


def page(found: ImageComparison) -> str:
    """Return the whole report: the verdict, targets, plots, differences, and every image."""
    parts = ["<h2>Largest score difference of each image</h2>", difference_plot(found)]
    problems = problem_rows(found)
    if problems:
        parts += ["<h2>What differs</h2>", table(PROBLEM_HEADER, problems)]
    parts += ["<h2>Images, worst first</h2>", table(IMAGE_HEADER, image_rows(found))]
    return document(found, _ABOUT, table(DIFFERENCE_HEADER, difference_rows(found)), parts)


def document(found: Comparison, about: str, differences: str, parts: Sequence[str]) -> str:
    """Return the page: the verdict, the targets with their `differences`, the costs, and `parts`.

    `about` is a sentence on what the numbers are; the rest is HTML.
    """
    body = "\n".join(
        [
            "<h1>mlserve compare</h1>",
            _verdict(found),
            "<h2>Targets</h2>",
            f'<p class="soft">{about}</p>',
            differences,
            table(COST_HEADER, cost_rows(found)),
            "<h2>Latency</h2>",
            latency_plot(found),
            *parts,
            _footer(found),
        ]
    )
    return plots.document("mlserve compare", body)


def _verdict(found: Comparison) -> str:
    kind = "same" if found.is_same else "different"
    return f'<p class="verdict {kind}">{escape(verdict(found))}</p>'


def _footer(found: Comparison) -> str:
    models = ", ".join(sorted({readable(r.target.model or "?") for r in found.targets}))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"model {models}; {found.runs} runs; mlserve {__version__}; {when}"
    return f'<p class="soft">{escape(text)}</p>'


def difference_rows(found: ImageComparison) -> list[list[str]]:
    """Return a row for each target: its largest differences; end to end, also the mean."""
    return [_difference_row(result, is_reference=not i) for i, result in enumerate(found.targets)]


def cost_rows(found: Comparison) -> list[list[str]]:
    """Return a row for each target: precision, agreement, latencies, memory, time to ready."""
    return [_cost_row(found, result) for result in found.targets]


def worst_rows(found: ImageComparison) -> list[list[str]]:
    """Return the images furthest from the reference, worst first; none if all are equal."""
    pairs = _pairs(found)
    return [_image_row(*pair) for pair in pairs if badness(pair[1]) > 0][:_WORST]


def image_rows(found: ImageComparison) -> list[list[str]]:
    """Return every image of every target but the reference, worst first."""
    return [_image_row(*pair) for pair in _pairs(found)]


def problem_rows(found: ImageComparison) -> list[list[str]]:
    """Return every disagreement with the reference."""
    return [
        [problem.target, readable(problem.image), readable(problem.what)]
        for problem in found.problems
    ]


def verdict(found: Comparison) -> str:
    """Return one line that says whether all targets agree."""
    compared = counted(found.count, found.noun)
    compared += f" ({found.refused} refused by all)" if found.refused else ""
    compared += f", {counted(len(found.targets), 'target')}"
    if found.is_same:
        return f"same: {compared}, every difference within {found.tolerance:g}"
    return f"different: {found.differing} of {compared}, tolerance {found.tolerance:g}"


def short(value: float | None) -> str:
    """Return a difference in few characters; `-` for none, `inf` for other shapes."""
    if value is None:
        return _NOTHING
    return "0" if value == 0 else f"{value:.2g}"


def _difference_row(result: ImagesResult, *, is_reference: bool) -> list[str]:
    return [
        result.target.name,
        "reference" if is_reference else f"{result.same_labels}/{len(result.rows)}",
        *(_largest(result.stages.get(stage)) for stage in STAGES),
        _largest(result.scores),
        short(result.scores.mean if result.scores else None),
    ]


def _cost_row(found: Comparison, result: TargetResult) -> list[str]:
    times = Percentiles.from_values(result.milliseconds)
    latency = (times.p50, times.p95, times.p99) if times else (None,) * 3
    return [
        result.target.name,
        result.target.precision or _NOTHING,
        "reference" if result is found.targets[0] else _agreement(found, result),
        *(_NOTHING if value is None else f"{value:.1f}" for value in latency),
        _NOTHING if result.rss is None else f"{result.rss / _MEBIBYTE:.0f}",
        _NOTHING if result.ready_seconds is None else f"{result.ready_seconds:.1f}",
    ]


def _agreement(found: Comparison, result: TargetResult) -> str:
    """Return the share of the images or rows with the reference's answer, never rounded up to 1."""
    same = found.count - result.differing_inputs
    return f"{math.floor(1000 * same / found.count) / 10:.1f}%" if found.count else _NOTHING


def _image_row(result: ImagesResult, row: Row) -> list[str]:
    differences = row.stages.differences if row.stages else {}
    return [
        result.target.name,
        readable(row.label or row.refusal or "nothing"),
        *(_largest(differences.get(stage)) for stage in STAGES),
        short(row.score_difference),
        readable(row.image),
    ]


def _pairs(found: ImageComparison) -> list[tuple[ImagesResult, Row]]:
    pairs = [(result, row) for result in found.targets[1:] for row in result.rows]
    return sorted(pairs, key=lambda pair: -badness(pair[1]))


def _largest(found: Difference | None) -> str:
    if found is None:
        return _NOTHING
    return "other shape" if math.isinf(found.largest) else short(found.largest)


def latency_plot(found: Comparison) -> str:
    """Plot, for each target, the share of answers within a time in milliseconds."""
    timed = [result for result in found.targets if result.milliseconds]
    if not timed:
        return "<p>No target answered.</p>"
    longest = max(max(result.milliseconds) for result in timed)
    across = PlotAxis(0.0, longest * 1.02, LEFT, WIDTH - RIGHT)
    up = PlotAxis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [horizontal(up.place(share), f"{share:.0%}") for share in (0.0, 0.5, 0.95)]
    parts += [below(across.place(value), f"{value:g} ms") for value in ticks(longest)]
    parts += [_line(across, up, result, _number(found, result)) for result in timed]
    return svg("Share of answers within a time", [*parts, *_legend(found, timed)])


def difference_plot(found: ImageComparison) -> str:
    """Plot, for each image, the largest score difference from the reference, on a log scale."""
    compared = [(result, _apart(result)) for result in found.targets]
    compared = [(result, values) for result, values in compared if values]
    if not compared:
        return "<p>No scores were compared.</p>"
    shown = [value for _, values in compared for _, _, value in values]
    up = _decades([*shown, found.tolerance])
    across = PlotAxis(-0.5, len(found.images) - 0.5, LEFT, WIDTH - RIGHT)
    powers = range(math.ceil(up.low), math.floor(up.high) + 1)
    parts = [horizontal(up.place(power), f"1e{power}") for power in powers]
    if found.tolerance > 0:
        parts.append(horizontal(up.place(math.log10(found.tolerance)), "", kind="limit"))
    parts.append(below(WIDTH / 2, _CAPTION))
    parts += [
        _dot(across.place(number), up.place(_logarithm(value, up)), image, value, result, found)
        for result, values in compared
        for number, image, value in values
    ]
    legend = _legend(found, [result for result, _ in compared])
    return svg("Largest score difference of each image", [*parts, *legend])


def _apart(result: ImagesResult) -> list[tuple[int, str, float]]:
    """Return the number, name and score difference of each image that has one."""
    values = [(i, row.image, _largest_shown(row)) for i, row in enumerate(result.rows)]
    return [(i, image, value) for i, image, value in values if value is not None]


def _largest_shown(row: Row) -> float | None:
    found = [row.score_difference]
    if row.stages and "scores" in row.stages.differences:
        found.append(row.stages.differences["scores"].largest)
    known = [value for value in found if value is not None]
    return max(known) if known else None


def _decades(values: Sequence[float]) -> PlotAxis:
    """Return an axis over the powers of ten around the values; zero is drawn on the lowest."""
    powers = [math.log10(value) for value in values if 0 < value < math.inf] or [-8.0]
    low, high = math.floor(min(powers)) - 1, math.ceil(max(powers)) + 0.2
    return PlotAxis(low, high, HEIGHT - BOTTOM, TOP)


def _logarithm(value: float, axis: PlotAxis) -> float:
    if value <= 0:
        return axis.low
    return min(axis.high, math.log10(value)) if math.isfinite(value) else axis.high


def _line(across: PlotAxis, up: PlotAxis, result: TargetResult, number: int) -> str:
    values = sorted(result.milliseconds)
    points = [(across.place(values[0]), up.place(0))]
    for place, value in enumerate(values):
        points.append((across.place(value), up.place((place + 1) / len(values))))
    return line(points, number)


def _dot(
    x: float, y: float, image: str, value: float, result: TargetResult, found: Comparison
) -> str:
    title = escape(f"{image}: {short(value)} ({result.target.name})")
    colour = _colour(found, result)
    return f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"><title>{title}</title></circle>'


def _legend(found: Comparison, results: Sequence[TargetResult]) -> list[str]:
    return legend([(_number(found, result), result.target.name) for result in results])


def _number(found: Comparison, result: TargetResult) -> int:
    return [id(each) for each in found.targets].index(id(result))


def _colour(found: Comparison, result: TargetResult) -> str:
    return colour(_number(found, result))
