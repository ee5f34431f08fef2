"""Report of a comparison of tables: its own tables, for the terminal and the HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mlserve.compare.findings import Findings, said_of
from mlserve.compare.manifests import SCORES
from mlserve.compare.report import document
from mlserve.compare.rows_result import RowProblem, TableComparison, TableResult
from mlserve.compare.tables import short
from mlserve.errors import counted, first_of, readable
from mlserve.report.page import Markup, Section, paragraph, table

DIFFERENCE_HEADER = ("target", "output", "rows that differ", "largest", "mean")
PROBLEM_HEADER = ("target", "row", "what differs")
_NOT_ANSWERED = "(no answer)"
_EXACT = "exact"
_OF_ONE_OUTPUT = 3
_SHOWN = 1000
"""The most rows that the page lists."""
_NAMED = 5
"""The most outputs that a sentence names."""
_ABOUT = (
    "Differences are from the first target: absolute up to 1, above it relative to the first "
    "target's value; text and whole numbers are equal or not."
)


def page(found: TableComparison, command: str = "") -> str:
    """Return the whole report; `command` is the command line that makes it again."""
    outputs = [
        paragraph(_ABOUT, "soft"),
        table("Differences by output", DIFFERENCE_HEADER, difference_rows(found)),
    ]
    sections = [Section("Outputs", outputs)]
    if found.problems:
        shown = worst(found, _SHOWN, of_one_output=_SHOWN)
        rows = [_rows_that_differ(found, shown)]
        if (more := len(found.problems) - len(shown)) > 0:
            rows += [paragraph(f"And {more} more; --output json lists them all.", "soft")]
        sections = [Section("Rows", rows), *sections]
    asked = f"{counted(found.count, 'row')} of {first_of([*found.files], _NAMED)}"
    return document(found, list(_findings(found)), sections, asked, command)


def _findings(found: TableComparison) -> Iterator[Findings]:
    """Yield what there is to say of each target, of the reference only if it failed."""
    reference, *others = found.targets
    if reference.problems:
        lead = f"{reference.target.name} failed to answer"
        yield Findings(reference.target.name, list(_without_answer(reference, lead)))
    for result in others:
        yield Findings(result.target.name, list(_of_target(found, result)))


def _of_target(found: TableComparison, result: TableResult) -> Iterator[str]:
    differing = [name for name in result.outputs if result.rows_that_differ(name)]
    for name in differing[:_NAMED]:
        yield _differing(found, result, name)
    if len(differing) > _NAMED:
        yield f"{len(differing) - _NAMED} more outputs differ."
    one, other = found.targets[0].target.name, result.target.name
    lead = f"{one} and {other} do not both have an answer"
    yield from _without_answer(result, lead)
    yield from _agreeing(result, [name for name in result.outputs if name not in differing])
    if found.refused:
        yield f"All targets refuse {counted(found.refused, 'row')} for the same reason."
    if result.problems:
        yield said_of(found.targets[0].target, result.target, SCORES, "weights and precision")


def _differing(found: TableComparison, result: TableResult, name: str) -> str:
    """Return in how many rows an output differs, and where by most."""
    problems = [each for (_, output), each in result.problems.items() if output == name]
    furthest = max(problems, key=lambda problem: problem.difference.largest)
    return (
        f"`{readable(name)}` differs in {len(problems)} of {counted(found.count, 'row')}; "
        f"furthest in {furthest.where}: {readable(furthest.what)}."
    )


def _without_answer(result: TableResult, lead: str) -> Iterator[str]:
    problems = [each for (_, output), each in result.problems.items() if output is None]
    if problems:
        first = problems[0]
        rows = counted(len(problems), "row")
        yield f"In {rows}, {lead}; first in {first.where}: {readable(first.what)}."


def _agreeing(result: TableResult, names: list[str]) -> Iterator[str]:
    if names:
        far = max(result.outputs[name].largest for name in names)
        listed = first_of([f"`{readable(name)}`" for name in names], _NAMED)
        verb = "agrees" if len(names) == 1 else "agree"
        yield f"{listed} {verb} in every answer{f' within {short(far)}' if far else ', exactly'}."


def _rows_that_differ(found: TableComparison, shown: Sequence[RowProblem]) -> Markup:
    """Return a row for each problem, without the target where there is only one that can differ."""
    target, *header = PROBLEM_HEADER
    rows = [[where, what] for _, where, what in problem_rows(shown)]
    if len(found.targets) > 2:  # noqa: PLR2004  the reference, and another one
        header.insert(1, target)
        rows = [
            [where, problem.target, what]
            for (where, what), problem in zip(rows, shown, strict=True)
        ]
    return table("Rows that differ", header, rows)


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


def worst(
    found: TableComparison, count: int, *, of_one_output: int = _OF_ONE_OUTPUT
) -> list[RowProblem]:
    """Return at most `count` problems, few of the same output, so that each output is seen."""
    seen: Counter[tuple[str, str | None]] = Counter()
    chosen = []
    for problem in found.problems:
        key = problem.target, problem.difference.output
        seen[key] += 1
        if seen[key] <= of_one_output:
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
