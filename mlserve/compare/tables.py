"""The tables of a comparison, as the terminal shows them: what differs, and what it costs."""

from __future__ import annotations

import math

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
from mlserve.percentiles import Percentiles, in_digits

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
NOTHING = "-"
MEBIBYTE = 1 << 20
_WORST = 5


def difference_rows(found: ImageComparison) -> list[list[str]]:
    """Return a row for each target: its largest differences; end to end, also the mean."""
    return [_difference_row(result, is_reference=not i) for i, result in enumerate(found.targets)]


def cost_rows(found: Comparison) -> list[list[str]]:
    """Return a row for each target: precision, agreement, latencies, memory, time to ready."""
    return [_cost_row(found, result) for result in found.targets]


def worst_rows(found: ImageComparison) -> list[list[str]]:
    """Return the images furthest from the reference, worst first; none if all are equal."""
    pairs = [(result, row) for result in found.targets[1:] for row in result.rows]
    worst = sorted(pairs, key=lambda pair: -badness(pair[1]))[:_WORST]
    return [_image_row(*pair) for pair in worst if badness(pair[1]) > 0]


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
    compared += "" if found.is_whole else " (interrupted: there was more to ask about)"
    if found.is_same:
        return f"same: {compared}, every difference within {found.tolerance:g}"
    return f"different: {found.differing} of {compared}, tolerance {found.tolerance:g}"


def short(value: float | None) -> str:
    """Return a difference in few characters; `-` for none, `inf` for other shapes."""
    if value is None:
        return NOTHING
    return in_digits(value, 2)


def largest(found: Difference | None) -> str:
    """Return the largest of a difference in few characters; `-` for none."""
    if found is None:
        return NOTHING
    return "other shape" if math.isinf(found.largest) else short(found.largest)


def agreement(found: Comparison, result: TargetResult) -> str:
    """Return the share of the images or rows with the reference's answer, never rounded up to 1."""
    if result is found.targets[0]:
        return "reference"
    same = found.count - result.differing_inputs
    return f"{math.floor(1000 * same / found.count) / 10:.1f}%" if found.count else NOTHING


def _difference_row(result: ImagesResult, *, is_reference: bool) -> list[str]:
    return [
        result.target.name,
        "reference" if is_reference else f"{result.same_labels}/{len(result.rows)}",
        *(largest(result.stages.get(stage)) for stage in STAGES),
        largest(result.scores),
        short(result.scores.mean if result.scores else None),
    ]


def _cost_row(found: Comparison, result: TargetResult) -> list[str]:
    times = Percentiles.from_values(result.milliseconds)
    latency = (times.p50, times.p95, times.p99) if times else (None,) * 3
    return [
        result.target.name,
        result.target.precision or NOTHING,
        agreement(found, result),
        *(NOTHING if value is None else f"{value:.1f}" for value in latency),
        NOTHING if result.rss is None else f"{result.rss / MEBIBYTE:.0f}",
        NOTHING if result.ready_seconds is None else f"{result.ready_seconds:.1f}",
    ]


def _image_row(result: ImagesResult, row: Row) -> list[str]:
    differences = row.stages.differences if row.stages else {}
    return [
        result.target.name,
        readable(row.label or row.refusal or "nothing"),
        *(largest(differences.get(stage)) for stage in STAGES),
        short(row.score_difference),
        readable(row.image),
    ]
