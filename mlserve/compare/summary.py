"""A comparison as rows of text, for the terminal and for the report."""

from __future__ import annotations

import math

from mlserve.client.refusals import readable
from mlserve.compare.latency import Percentiles
from mlserve.compare.result import (
    STAGES,
    Comparison,
    Difference,
    Row,
    TargetResult,
    badness,
)

DIFFERENCE_HEADER = ("target", "labels", *STAGES, "end to end", "mean")
COST_HEADER = ("target", "p50 ms", "p95 ms", "p99 ms", "rss MB", "ready s")
IMAGE_HEADER = ("target", "answer", *STAGES, "end to end", "image")
PROBLEM_HEADER = ("target", "image", "what differs")
_WORST = 5
_NOTHING = "-"
_MEBIBYTE = 1 << 20


def difference_rows(found: Comparison) -> list[list[str]]:
    """A row for each target: largest differences from the reference, end to end the mean too."""
    return [_difference_row(result, is_reference=not i) for i, result in enumerate(found.targets)]


def cost_rows(found: Comparison) -> list[list[str]]:
    """A row for each target: the times of its answers, its memory, its time to ready."""
    return [_cost_row(result) for result in found.targets]


def worst_rows(found: Comparison) -> list[list[str]]:
    """The images that are furthest from the reference, worst first; none where all are equal."""
    pairs = _pairs(found)
    return [_image_row(*pair) for pair in pairs if badness(pair[1]) > 0][:_WORST]


def image_rows(found: Comparison) -> list[list[str]]:
    """Every image in every target but the reference, worst first."""
    return [_image_row(*pair) for pair in _pairs(found)]


def problem_rows(found: Comparison) -> list[list[str]]:
    """Everything that keeps the targets from being the same."""
    return [
        [problem.target, readable(problem.image), readable(problem.what)]
        for problem in found.problems
    ]


def verdict(found: Comparison) -> str:
    """One line that says whether all are the same."""
    images, targets = len(found.images), len(found.targets)
    refused = _refused(found)
    compared = _counted(images, "image") + (f" ({refused} refused by all)" if refused else "")
    compared += f", {_counted(targets, 'target')}"
    if found.is_same:
        return f"same: {compared}, every difference within {found.tolerance:g}"
    differing = len({problem.image for problem in found.problems})
    return f"different: {differing} of {compared}, tolerance {found.tolerance:g}"


def short(value: float | None) -> str:
    """A difference in few characters; `-` for none, `inf` for other shapes."""
    if value is None:
        return _NOTHING
    return "0" if value == 0 else f"{value:.2g}"


def _difference_row(result: TargetResult, *, is_reference: bool) -> list[str]:
    return [
        result.target.name,
        "reference" if is_reference else f"{result.same_labels}/{len(result.rows)}",
        *(_largest(result.stages.get(stage)) for stage in STAGES),
        _largest(result.scores),
        short(result.scores.mean if result.scores else None),
    ]


def _cost_row(result: TargetResult) -> list[str]:
    times = Percentiles.of(result.milliseconds)
    latency = (times.p50, times.p95, times.p99) if times else (None,) * 3
    return [
        result.target.name,
        *(_NOTHING if value is None else f"{value:.1f}" for value in latency),
        _NOTHING if result.rss is None else f"{result.rss / _MEBIBYTE:.0f}",
        _NOTHING if result.ready_seconds is None else f"{result.ready_seconds:.1f}",
    ]


def _image_row(result: TargetResult, row: Row) -> list[str]:
    differences = row.stages.differences if row.stages else {}
    return [
        result.target.name,
        readable(row.label or row.refusal or "nothing"),
        *(_largest(differences.get(stage)) for stage in STAGES),
        short(row.score_difference),
        readable(row.image),
    ]


def _pairs(found: Comparison) -> list[tuple[TargetResult, Row]]:
    pairs = [(result, row) for result in found.targets[1:] for row in result.rows]
    return sorted(pairs, key=lambda pair: -badness(pair[1]))


def _largest(found: Difference | None) -> str:
    if found is None:
        return _NOTHING
    return "other shape" if math.isinf(found.largest) else short(found.largest)


def _refused(found: Comparison) -> int:
    """How many images no target took."""
    return sum(
        all(row.label is None for row in of_image)
        for of_image in zip(*(result.rows for result in found.targets), strict=True)
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
