"""Result of a comparison of tables: how far each output is apart, and the rows that differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlserve.compare.result import Comparison, Difference, TargetResult, finite
from mlserve.compare.row_values import OutputDifference, row_differences
from mlserve.errors import UsageError, as_utf8, readable
from mlserve.rows.asking import Outcome, RowError
from mlserve.rows.table import Place


@dataclass(frozen=True, slots=True)
class RowProblem:
    """The reason why a target disagrees with the reference on a row."""

    place: Place
    target: str
    difference: OutputDifference

    @property
    def what(self) -> str:
        return self.difference.what

    @property
    def where(self) -> str:
        """The file and the row, in words."""
        place = self.place
        if not place.number:
            return readable(place.file)
        line = "" if place.line is None else f" (line {place.line})"
        return f"{readable(place.file)}, row {place.number}{line}"

    def to_json(self) -> dict[str, Any]:
        found = self.difference
        return {
            "file": as_utf8(self.place.file),
            "row": self.place.number or None,
            "line": self.place.line,
            "target": self.target,
            "output": found.output,
            "value": found.value,
            "reference": found.reference,
            "difference": None if found.is_exact else finite(found.largest),
            "what": found.what,
        }


@dataclass(slots=True)
class OutputAgreement:
    """One output over all rows: the largest difference, and the mean of the rows' means.

    `is_exact`: it was not of floats in any row, so it has no differences.
    """

    largest: float = 0.0
    is_exact: bool = True
    _sum: float = 0.0
    _count: int = 0

    def add(self, found: OutputDifference) -> None:
        """Count one more row."""
        if not found.is_exact:
            self.is_exact = False
            self.largest = max(self.largest, found.largest)
            self._sum, self._count = self._sum + found.mean, self._count + 1

    @property
    def difference(self) -> Difference | None:
        """The difference; None for text and whole numbers, which are equal or not."""
        return None if self.is_exact else Difference(self.largest, self._sum / self._count)


@dataclass(slots=True, kw_only=True)
class TableResult(TargetResult):
    """One target's answers to the rows; `times` are those of each request, in milliseconds.

    `problems` has what is worst in a row's output, over all runs.
    """

    times: Sequence[float] = ()
    outputs: dict[str, OutputAgreement] = field(default_factory=dict)
    problems: dict[tuple[Place, str | None], RowProblem] = field(default_factory=dict)

    @property
    def milliseconds(self) -> Sequence[float]:
        return self.times

    @property
    def differing(self) -> set[Place]:
        """The rows that differ from the reference's."""
        return {place for place, _ in self.problems}

    @property
    def differing_inputs(self) -> int:
        """Number of rows that differ from the reference's by more than the tolerance."""
        return len(self.differing)

    def rows_that_differ(self, output: str | None) -> int:
        """Return in how many rows the output differs; None counts the rows without an answer."""
        return sum(name == output for _, name in self.problems)

    def take(self, place: Place, found: Iterable[OutputDifference], tolerance: float) -> None:
        """Add what differs in one row."""
        for difference in found:
            if difference.output is not None:
                self.outputs.setdefault(difference.output, OutputAgreement()).add(difference)
            if difference.largest > tolerance:
                self._keep(RowProblem(place, self.target.name, difference))

    def agreement(self) -> dict[str, Any]:
        return {
            "rows_that_differ": len(self.differing),
            "outputs": {name: self._output_json(name) for name in self.outputs},
        }

    def _keep(self, problem: RowProblem) -> None:
        key = problem.place, problem.difference.output
        known = self.problems.get(key)
        if known is None or known.difference.largest < problem.difference.largest:
            self.problems[key] = problem

    def _output_json(self, name: str) -> dict[str, Any]:
        difference = self.outputs[name].difference
        return {
            "rows_that_differ": self.rows_that_differ(name),
            "difference": difference.to_json() if difference else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TableComparison(Comparison):
    """The answers to the rows of `files`; no target answered `refused_rows` of them."""

    files: Sequence[str]
    targets: Sequence[TableResult]
    rows: int
    refused_rows: int
    noun = "row"

    @property
    def count(self) -> int:
        return self.rows

    @property
    def refused(self) -> int:
        return self.refused_rows

    @property
    def differing(self) -> int:
        return len(set().union(*(result.differing for result in self.targets)))

    @property
    def problems(self) -> list[RowProblem]:
        return [
            problem
            for result in self.targets
            for problem in sorted(
                result.problems.values(), key=lambda item: -item.difference.largest
            )
        ]

    def inputs(self) -> dict[str, Any]:
        return {
            "files": [as_utf8(file) for file in self.files],
            "rows": self.rows,
            "refused_by_all": self.refused,
        }


@dataclass(slots=True)
class RowTally:
    """Adds rows to the targets' results. `first_refusal` is that of a row nobody answered."""

    results: Sequence[TableResult]
    tolerance: float
    rows: int = 0
    refused: int = 0
    first_refusal: RowError | None = None
    is_whole: bool = True

    def add(self, outcomes: Sequence[Outcome], *, is_first_run: bool) -> None:
        """Add one row: the outcome of each target, that of the reference first."""
        reference = outcomes[0]
        for result, outcome in zip(self.results, outcomes, strict=True):
            if outcome is not reference or isinstance(outcome, RowError):
                found = row_differences(reference, outcome)
                result.take(outcome.place, found, self.tolerance)
        if is_first_run:
            self.rows += 1
            self._count_refused(outcomes)

    def _count_refused(self, outcomes: Sequence[Outcome]) -> None:
        errors = [outcome for outcome in outcomes if isinstance(outcome, RowError)]
        if len(errors) == len(outcomes):
            self.refused += 1
            self.first_refusal = self.first_refusal or errors[0]

    def comparison(self, files: Sequence[str], runs: int) -> TableComparison:
        """Return the result. Raises UsageError without rows; the first refusal if all are."""
        if not self.rows:
            raise UsageError(
                f"{', '.join(map(readable, files))} has no rows to compare",
                hint="give at least one row",
            )
        if self.first_refusal and self.refused == self.rows:
            place, error = self.first_refusal.place, self.first_refusal.error
            error.message = f"no target answered any row; {place}: {error.message}"
            raise error
        return TableComparison(
            files=tuple(files),
            targets=self.results,
            tolerance=self.tolerance,
            runs=runs,
            rows=self.rows,
            refused_rows=self.refused,
            is_whole=self.is_whole,
        )
