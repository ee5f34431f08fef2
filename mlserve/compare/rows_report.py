"""Report of a comparison of tables: its own tables, for the terminal and the HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mlserve.compare.report import document, short
from mlserve.compare.rows_result import RowProblem, TableComparison, TableResult
from mlserve.errors import readable
from mlserve.plots import table

DIFFERENCE_HEADER = ("target", "output", "rows that differ", "largest", "mean")
PROBLEM_HEADER = ("target", "row", "what differs")
_NOT_ANSWERED = "(no answer)"
_EXACT = "exact"
_OF_ONE_OUTPUT = 3
_ABOUT = (
    "Differences are from the first target: absolute up to 1, above it relative to the first "
    "target's value; text and whole numbers are equal or not. Times are those of one request with "
    "a batch of rows at a time, all targets asked in turn about each batch."
)


def page(found: TableComparison) -> str:
    """Return the whole report: the verdict, targets, latencies, and every row that differs."""
    parts = []
    if found.problems:
        parts = ["<h2>What differs</h2>", table(PROBLEM_HEADER, problem_rows(found.problems))]
    return document(found, _ABOUT, table(DIFFERENCE_HEADER, difference_rows(found)), parts)


def difference_rows(found: TableComparison) -> list[list[str]]:
    """Return a row for each target and output; the reference has one."""
    reference, *others = found.targets
    rows = [[reference.target.name, "reference", "", "", ""]]
    rows += _unanswered(reference)
    for result in others:
        rows += [_output_row(result, name) for name in result.outputs] + _unanswered(result)
    return rows


def problem_rows(problems: Iterable[RowProblem]) -> list[list[str]]:
    """Return the target, the row and what differs there."""
    return [[each.target, each.where, readable(each.what)] for each in problems]


def worst(found: TableComparison, count: int) -> list[RowProblem]:
    """Return at most `count` problems, few of the same output, so that each output is seen."""
    seen: Counter[tuple[str, str | None]] = Counter()
    chosen = []
    for problem in found.problems:
        key = problem.target, problem.difference.output
        seen[key] += 1
        if seen[key] <= _OF_ONE_OUTPUT:
            chosen.append(problem)
    return chosen[:count]


def _output_row(result: TableResult, name: str) -> list[str]:
    difference = result.outputs[name].difference
    return [
        result.target.name,
        readable(name),
        str(result.rows_that_differ(name)),
        short(difference.largest) if difference else _EXACT,
        short(difference.mean if difference else None),
    ]


def _unanswered(result: TableResult) -> list[list[str]]:
    count = result.rows_that_differ(None)
    return [[result.target.name, _NOT_ANSWERED, str(count), "", ""]] if count else []
