"""What came of a certification, in words and as data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mlserve.compare.result import finite
from mlserve.errors import as_utf8, counted, readable
from mlserve.percentiles import in_digits

_MOST_DIGITS = 18
"""One more than tell any two floats apart."""
_LISTED = 5
"""The most golden inputs, or files, whose difference is told in text."""


class Outcome(StrEnum):
    """What can be said of a version here."""

    HOLDS = "holds"
    DRIFTED = "drifted"
    FAILED = "failed"
    """It could not be asked: it does not load, or does not answer."""
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Problem:
    """A golden input or a file, and in words what is wrong with its answer."""

    name: str
    what: str

    def to_json(self) -> dict[str, str]:
        return {"name": as_utf8(self.name), "what": self.what}


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """The answers to the golden inputs, against those of the reference.

    `same` is how many have the reference's label, or, of a model `without_labels`, are within the
    tolerance. `difference` is the largest, as `Certificate.tolerance` counts it; infinite if there
    is an input without an answer. `own_tolerance` is that of `Certificate`. `distances` has the
    difference of each golden input, by its name.
    """

    reference: str
    cases: int
    same: int
    difference: float
    tolerance: float
    without_labels: bool
    problems: Sequence[Problem] = ()
    own_tolerance: float | None = None
    distances: Sequence[tuple[str, float]] = ()

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def bound(self) -> float:
        """The distance of the two best scores above which no label changes: both may move."""
        return 2 * self.difference

    def lines(self, near: str) -> Iterator[str]:
        """Yield what there is to say; `near` says how many of the user's files are near."""
        kind = "within the tolerance" if self.without_labels else "identical"
        yield (
            f"{kind} on {self.same} of {counted(self.cases, 'golden input')}, against "
            f"{readable(self.reference)}"
        )
        if math.isinf(self.difference):
            return
        if not self.difference:
            yield "no number differs from the reference's"
            return
        what = "difference" if self.without_labels else "score change"
        own = ""
        if self.own_tolerance is not None:
            own = f" from them, and {brief(self.own_tolerance)} from its own answers at the export"
        yield f"largest {what} {_beside(self.difference, self.tolerance)}{own}"
        if not self.without_labels:
            bound = brief(self.bound)
            yield f"a label can change only where the two best are closer than {bound}{near}"

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "cases": self.cases,
            "same": self.same,
            "largest_difference": finite(self.difference),
            "tolerance": self.tolerance,
            "own_tolerance": self.own_tolerance,
            "label_bound": None if self.without_labels else finite(self.bound),
            "problems": [problem.to_json() for problem in self.problems],
        }


@dataclass(frozen=True, slots=True)
class FilesResult:
    """The answers to the user's own images or rows.

    `count` were asked about and `refused` of them are no input of the model. `margins` are the
    distances of the two best scores, where the answer has them. The rest is None without another
    version to compare with, `against`: `same` labels (or rows within the tolerance), and the
    largest `difference`.
    """

    noun: str
    count: int
    refused: int = 0
    margins: Sequence[float] = ()
    against: str | None = None
    same: int | None = None
    difference: float | None = None
    tolerance: float | None = None
    problems: Sequence[Problem] = field(default_factory=tuple)

    @property
    def holds(self) -> bool:
        return not self.problems

    def near(self, bound: float) -> int | None:
        """Return in how many answers the two best are closer than that; None if not known."""
        if len(self.margins) < self.count - self.refused:
            return None
        return sum(margin < bound for margin in self.margins)

    def lines(self) -> Iterator[str]:
        """Yield what there is to say of the comparison; nothing without one."""
        if self.against is None:
            return
        asked = counted(self.count, self.noun)
        refused = f" ({self.refused} refused by both)" if self.refused else ""
        yield (
            f"identical on {self.same} of your {asked}{refused}, against {readable(self.against)}"
        )
        if self.difference is not None and self.tolerance is not None:
            yield f"largest difference {_beside(self.difference, self.tolerance)}"

    def to_json(self, bound: float | None) -> dict[str, Any]:
        return {
            "count": self.count,
            "refused": self.refused,
            "near": None if bound is None else self.near(bound),
            "smallest_margin": min(self.margins, default=None),
            "against": self.against,
            "same": self.same,
            "largest_difference": None if self.difference is None else finite(self.difference),
            "tolerance": self.tolerance,
            "problems": [problem.to_json() for problem in self.problems],
        }


@dataclass(frozen=True, slots=True)
class Certified:
    """A version, or an endpoint, and what came of it. `why` says why it has no verdict."""

    name: str
    version: str
    runs_on: str | None = None
    golden: GoldenResult | None = None
    files: FilesResult | None = None
    why: str = ""
    hint: str | None = None
    is_failed: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.is_failed:
            return Outcome.FAILED
        checks = [check for check in (self.golden, self.files) if check is not None]
        if not all(check.holds for check in checks):
            return Outcome.DRIFTED
        has_reference = self.golden is not None or (self.files and self.files.against)
        return Outcome.HOLDS if has_reference else Outcome.NOT_CHECKED

    def lines(self) -> Iterator[str]:
        """Yield the result in words, its headline first."""
        runs_on = f" ({self.runs_on})" if self.runs_on else ""
        yield f"{readable(self.name)}{runs_on}: {self.outcome}"
        if self.why:
            yield f"  {self.why}"
        if self.golden is not None:
            yield from (f"  {line}" for line in self.golden.lines(self._near(self.golden.bound)))
            yield from _listed(self.golden.problems)
        if self.files is not None:
            yield from (f"  {line}" for line in self.files.lines())
            yield from _listed(self.files.problems)

    def _near(self, bound: float) -> str:
        """Return how many of the user's files are near the bound, to end a sentence with."""
        near = None if self.files is None else self.files.near(bound)
        if self.files is None or near is None:
            return ""
        asked = self.files.count - self.files.refused
        return f": {near:,} of your {asked:,} {self.files.noun}{'' if asked == 1 else 's'}"

    def to_json(self) -> dict[str, Any]:
        bound = None if self.golden is None else self.golden.bound
        return {
            "name": as_utf8(self.name),
            "version": self.version,
            "outcome": self.outcome.value,
            "why": self.why or None,
            "hint": self.hint,
            "runs_on": self.runs_on,
            "golden": None if self.golden is None else self.golden.to_json(),
            "files": None if self.files is None else self.files.to_json(bound),
        }


def brief(value: float) -> str:
    """Return a number in two digits: `3e-6`."""
    return _in_digits(value, 2)


def _in_digits(value: float, digits: int) -> str:
    return in_digits(value, digits).replace("e-0", "e-")


def _beside(difference: float, tolerance: float) -> str:
    """Return a difference and what is allowed, in as many digits as show which is larger.

    `0.0001; 0.0001 is allowed` of a version that has drifted would say nothing.
    """
    for digits in range(2, _MOST_DIGITS):
        found, allowed = (_in_digits(each, digits) for each in (difference, tolerance))
        if found != allowed:
            break
    return f"{found}; {allowed} is allowed"


def _listed(problems: Sequence[Problem]) -> Iterator[str]:
    for problem in problems[:_LISTED]:
        yield f"    {readable(problem.name)}: {readable(problem.what)}"
    if len(problems) > _LISTED:
        yield f"    and {len(problems) - _LISTED} more; --output json lists them all"
