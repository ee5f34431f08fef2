"""Ask a version, and another one to compare with, about the user's own images and rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlserve.certify.result import FilesResult, Problem, brief
from mlserve.client import Client, Prediction
from mlserve.compare.asking import Served
from mlserve.compare.images import score_difference
from mlserve.compare.result import are_refused_alike
from mlserve.compare.rows import TablePanel, TableQuestion
from mlserve.compare.rows_result import RowTally, TableResult
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, UsageError

Progress = Callable[[int, int, str], None]
"""Called with how many files are done, of how many (0: unknown), and the next one."""
_TWO_BEST = 2
_OFTEN = 100  # rows


@dataclass(frozen=True, slots=True)
class Answering:
    """A server that answers, and its client."""

    served: Served
    client: Client

    @property
    def name(self) -> str:
        """The name of the version, or the endpoint."""
        return self.served.target.name


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files to ask about. `timeout` (seconds) applies to each request."""

    names: Sequence[str]
    timeout: float

    def ask(
        self,
        asked: Answering,
        against: Answering | None,
        *,
        classes: int | None,
        tolerance: float,
        progress: Progress,
    ) -> FilesResult:
        """Ask both about every image; scores may differ by `tolerance`.

        A label may be another one only where that can swap the two best scores of `against`.
        Without `classes`, the model's number of them, the best few scores are compared. Raises
        UsageError for a file that cannot be read, and the error of one that does not answer.
        """
        tally = _ImageTally(tolerance)
        top_k = _TWO_BEST if against is None else classes
        for done, name in enumerate(self.names):
            progress(done, len(self.names), name)
            image = _read(name)
            expected = None if against is None else self._answer(against, image, top_k)
            tally.add(name, self._answer(asked, image, top_k), expected)
        return tally.result(None if against is None else against.name)

    def _answer(
        self, asked: Answering, image: bytes, top_k: int | None
    ) -> Prediction | InvalidInput:
        try:
            return asked.client.predict(image, timeout=Deadline.after(self.timeout), top_k=top_k)
        except InvalidInput as error:
            return error


class _ImageTally:
    """Adds up the answers to images."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._count = self._refused = self._same = 0
        self._difference: float | None = None
        self._margins: list[float] = []
        self._problems: list[Problem] = []

    def add(
        self,
        name: str,
        found: Prediction | InvalidInput,
        expected: Prediction | InvalidInput | None,
    ) -> None:
        """Add one image; `expected` is the other version's answer, if there is one."""
        self._count += 1
        if isinstance(found, Prediction):
            if (margin := _margin(found)) is not None:
                self._margins.append(margin)
            if isinstance(expected, Prediction):
                self._compare(name, found, expected)
            elif expected is not None:
                self._problems.append(
                    Problem(name, f"answered, where the other version refuses it: {expected}")
                )
        elif expected is None or (
            isinstance(expected, InvalidInput) and are_refused_alike(found, expected)
        ):
            self._refused += 1
        else:
            self._problems.append(Problem(name, f"refused: {found}"))

    def _compare(self, name: str, found: Prediction, expected: Prediction) -> None:
        apart = score_difference(expected.scores, found.scores)
        if apart is not None:
            self._difference = max(apart, self._difference or 0.0)
        margin = _margin(expected)
        if _best(found) == _best(expected):
            self._same += 1
        elif margin is None or margin > 2 * self._tolerance:
            what = f"{found.label!r} instead of {expected.label!r}"
            if found.label == expected.label:
                what = f"another class of the label {found.label!r}"
            self._problems.append(Problem(name, what))
            return
        if apart is not None and apart > self._tolerance:
            self._problems.append(Problem(name, f"scores differ by {brief(apart)}"))

    def result(self, against: str | None) -> FilesResult:
        """Return what was added up."""
        is_compared = against is not None
        return FilesResult(
            "image",
            self._count,
            self._refused,
            self._margins,
            against,
            self._same if is_compared else None,
            self._difference,
            self._tolerance if is_compared else None,
            self._problems,
        )


def _best(answer: Prediction) -> tuple[str, int | None]:
    """Return the label, and the number of the class where it is known: labels can be alike."""
    return answer.label, answer.scores[0].index if answer.scores else None


def _margin(answer: Prediction) -> float | None:
    """Return the best score less the second best; None without two scores that are finite."""
    if len(answer.scores) < _TWO_BEST:
        return None
    margin = answer.scores[0].score - answer.scores[1].score
    return margin if math.isfinite(margin) else None


@dataclass(frozen=True, slots=True)
class TableFiles:
    """Rows of tables to ask about; `tell` receives notes about the files."""

    question: TableQuestion
    timeout: float
    tell: Callable[[str], None]

    def ask(
        self,
        asked: Answering,
        against: Answering | None,
        *,
        classes: int | None,
        tolerance: float,
        progress: Progress,
    ) -> FilesResult:
        """Ask both about every row; numbers may differ by `tolerance`, all else must be equal.

        `classes` are for images. Raises UsageError for files that one of them cannot take.
        """
        assert against is not None, "a table has no answers of its own to judge by"
        both = (against, asked)
        panel = TablePanel.of(
            [each.served for each in both],
            [each.client for each in both],
            self.question,
            self.timeout,
            self.tell,
        )
        results = [TableResult(target=each.served.target) for each in both]
        tally = RowTally(results, tolerance)
        for done, (_, outcomes) in enumerate(panel.rows(runs=1)):
            if done % _OFTEN == 0:
                progress(done, 0, f"{done} rows")
            tally.add(outcomes, is_first_run=True)
        found = tally.comparison(self.question.files, runs=1)
        apart = [each.difference for each in results[1].outputs.values()]
        return FilesResult(
            "row",
            found.count,
            found.refused,
            (),
            against.name,
            found.count - found.refused - found.differing,
            max((each.largest for each in apart if each is not None), default=None),
            tolerance,
            [Problem(problem.where, problem.what) for problem in found.problems],
        )


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror or error}", hint="leave it out, or repair it"
        ) from error


Files = ImageFiles | TableFiles
"""What the user asks about."""
