"""Result of a comparison: what images and tables share, and for images a row for each target."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from mlserve import errors
from mlserve.compare.targets import ComparedTarget
from mlserve.percentiles import Percentiles, in_digits

STAGES = ("decoded", "resized", "scores")
"""The stages of an image pipeline, in order: methods of `mlserve.backend.ImageStages`."""
_ANY_BAD_INPUT = errors.InvalidInput("").kind
"""The kind of an API without finer ones, such as gRPC's INVALID_ARGUMENT."""
BAD_INPUT = frozenset(
    kind("").kind for kind in (errors.InvalidInput, errors.NotAnImage, errors.InputTooLarge)
)
"""Error kinds that concern the image or the row: two targets with the same kind agree."""


def are_refused_alike(one: errors.MlserveError | None, other: errors.MlserveError | None) -> bool:
    """Return whether two targets refused the same input for the same reason, as far as is known."""
    kinds = {error.kind for error in (one, other) if error}
    if one is None or other is None or not kinds <= BAD_INPUT:
        return False
    return len(kinds) == 1 or _ANY_BAD_INPUT in kinds


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest and the mean absolute difference of two arrays; infinite for other shapes."""

    largest: float
    mean: float

    def to_json(self) -> dict[str, Any]:
        return {"largest": finite(self.largest), "mean": finite(self.mean)}


@dataclass(frozen=True, slots=True)
class Stages:
    """One image in two exported models, stage by stage.

    `differences` is by stage, empty if the image was refused; `refusals` are the error kinds of the
    reference and of this target.
    """

    differences: Mapping[str, Difference]
    has_same_top_1: bool = True
    has_same_order: bool = True
    refusals: tuple[str | None, str | None] = (None, None)

    @property
    def is_refused_alike(self) -> bool:
        """Whether both refused the image, for the same reason."""
        one, other = self.refusals
        return one == other and one in BAD_INPUT

    def to_json(self) -> dict[str, Any]:
        stages = {name: found.to_json() for name, found in self.differences.items()}
        return {
            "differences": stages,
            "same_top_1": self.has_same_top_1,
            "same_order": self.has_same_order,
            "refusals": list(self.refusals),
        }


@dataclass(slots=True)
class Row:
    """One image sent to one target, end to end.

    `label` is None if there was none, and `refusal` is then the error kind. `disagreement` says in
    words how the answer differs from the reference's. `score_difference` is the largest one among
    the best scores of both; None if there are none. `milliseconds` are those of each answer.
    """

    image: str
    label: str | None = None
    score: float | None = None
    refusal: str | None = None
    disagreement: str | None = None
    score_difference: float | None = None
    milliseconds: list[float] = field(default_factory=list)
    stages: Stages | None = None

    def problems(self, tolerance: float) -> Iterator[str]:
        """Yield, in words, why this row disagrees with the reference."""
        if self.disagreement:
            yield self.disagreement
        if (self.score_difference or 0) > tolerance:
            yield f"scores end to end differ by {in_digits(self.score_difference or 0, 2)}"
        if self.stages:
            yield from _stage_problems(self.stages, tolerance)

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "score": self.score,
            "refusal": self.refusal,
            "disagreement": self.disagreement,
            "score_difference": self.score_difference,
            "milliseconds": [round(value, 3) for value in self.milliseconds],
            "stages": self.stages.to_json() if self.stages else None,
        }


@dataclass(slots=True, kw_only=True)
class TargetResult(ABC):
    """One target: its answers, and its server's costs.

    `rss` is in bytes, `ready_seconds` from the start of the process to the first answer; both are
    None for an endpoint. `runs_on` is what the server says runs it: runtime, precision and device.
    """

    target: ComparedTarget
    runs_on: str | None = None
    rss: int | None = None
    ready_seconds: float | None = None

    @property
    @abstractmethod
    def milliseconds(self) -> Sequence[float]:
        """The time of every answer."""

    @property
    @abstractmethod
    def differing_inputs(self) -> int:
        """Number of images or rows whose answer is not the reference's."""

    @abstractmethod
    def agreement(self) -> dict[str, Any]:
        """Return, as JSON data, how well the answers agree with the reference's."""

    def to_json(self) -> dict[str, Any]:
        times = Percentiles.from_values(self.milliseconds)
        return {
            "name": self.target.name,
            "model": self.target.model,
            "version": self.target.version,
            "endpoint": self.target.endpoint,
            "precision": self.target.precision,
            "runs_on": self.runs_on,
            **self.agreement(),
            "latency_ms": times.to_json() if times else None,
            "rss_bytes": self.rss,
            "ready_seconds": None if self.ready_seconds is None else round(self.ready_seconds, 3),
        }


class Problem(Protocol):
    """The reason why a target disagrees with the reference."""

    @property
    def target(self) -> str: ...
    @property
    def what(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(ABC):
    """The whole result; the first target is the reference. `runs` is how often each was asked.

    `noun` is what was asked about. `is_whole` is False if the user interrupted: then it is about
    the images or rows that all targets had been asked about.
    """

    noun: ClassVar[str]
    targets: Sequence[TargetResult]
    tolerance: float
    runs: int
    is_whole: bool = True

    @property
    @abstractmethod
    def problems(self) -> Sequence[Problem]:
        """Every disagreement with the reference, for each target the worst first."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of images or rows."""

    @property
    @abstractmethod
    def refused(self) -> int:
        """Number of images or rows that no target answered."""

    @property
    @abstractmethod
    def differing(self) -> int:
        """Number of images or rows with a problem."""

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Return, as JSON data, what was asked about."""

    @property
    def is_same(self) -> bool:
        """Whether all agree, and every difference is within the tolerance."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "same": self.is_same,
            "is_whole": self.is_whole,
            "tolerance": self.tolerance,
            "runs": self.runs,
            "reference": self.targets[0].target.name,
            "targets": [result.to_json() for result in self.targets],
            **self.inputs(),
            "problems": [problem.to_json() for problem in self.problems],
        }


@dataclass(slots=True, kw_only=True)
class ImagesResult(TargetResult):
    """One target's rows, one for each image, in order."""

    rows: list[Row]

    @property
    def milliseconds(self) -> list[float]:
        """The time of every answer."""
        return [value for row in self.rows for value in row.milliseconds]

    @property
    def same_labels(self) -> int:
        """Number of images with the reference's label, or refused for the same reason."""
        return sum(row.disagreement is None for row in self.rows)

    @property
    def differing_inputs(self) -> int:
        """Number of images without the reference's label."""
        return len(self.rows) - self.same_labels

    @property
    def scores(self) -> Difference | None:
        """Largest and mean score difference end to end; None if nothing was compared."""
        found = [row.score_difference for row in self.rows if row.score_difference is not None]
        return Difference(max(found), sum(found) / len(found)) if found else None

    @property
    def stages(self) -> dict[str, Difference]:
        """By stage, the largest difference, and the mean of the images' means."""
        return {stage: found for stage in STAGES if (found := self._stage(stage))}

    def _stage(self, stage: str) -> Difference | None:
        compared = [row.stages.differences for row in self.rows if row.stages]
        found = [differences[stage] for differences in compared if stage in differences]
        if not found:
            return None
        mean = sum(difference.mean for difference in found) / len(found)
        return Difference(max(difference.largest for difference in found), mean)

    def agreement(self) -> dict[str, Any]:
        return {
            "same_labels": self.same_labels,
            "score_difference": self.scores.to_json() if self.scores else None,
            "stages": {stage: found.to_json() for stage, found in self.stages.items()},
        }


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """The reason why a target disagrees with the reference on an image."""

    image: str
    target: str
    what: str

    def to_json(self) -> dict[str, str]:
        return {"image": errors.as_utf8(self.image), "target": self.target, "what": self.what}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageComparison(Comparison):
    """The answers to images, each with a row of every target."""

    noun = "image"
    images: Sequence[str]
    targets: Sequence[ImagesResult]

    @property
    def count(self) -> int:
        return len(self.images)

    @property
    def refused(self) -> int:
        return sum(
            all(row.label is None for row in of_image)
            for of_image in zip(*(result.rows for result in self.targets), strict=True)
        )

    @property
    def differing(self) -> int:
        return len({problem.image for problem in self.problems})

    @property
    def problems(self) -> list[ImageProblem]:
        """Return every disagreement with the reference, worst images first."""
        return [
            ImageProblem(row.image, result.target.name, what)
            for result in self.targets
            for row in sorted(result.rows, key=lambda row: -badness(row))
            for what in row.problems(self.tolerance)
        ]

    def inputs(self) -> dict[str, Any]:
        rows = zip(*(result.rows for result in self.targets), strict=True)
        names = [result.target.name for result in self.targets]
        return {
            "images": [
                {
                    "file": errors.as_utf8(image),
                    "targets": {
                        name: row.to_json() for name, row in zip(names, of_image, strict=True)
                    },
                }
                for image, of_image in zip(self.images, rows, strict=True)
            ]
        }


def badness(row: Row) -> float:
    """Return how far a row is from the reference: other labels are worst, then the difference."""
    if row.disagreement or (row.stages and not row.stages.has_same_top_1):
        return math.inf
    found = [difference.largest for difference in _differences(row).values()]
    return max([*found, row.score_difference or 0.0])


def _differences(row: Row) -> Mapping[str, Difference]:
    return row.stages.differences if row.stages else {}


def _stage_problems(stages: Stages, tolerance: float) -> Iterator[str]:
    if stages.refusals != (None, None):
        if not stages.is_refused_alike:
            reference, other = (kind or "taken" for kind in stages.refusals)
            yield f"the pipeline says {other}, the reference {reference}"
        return
    for stage, found in stages.differences.items():
        if math.isinf(found.largest):
            yield f"stage {stage} has another shape, or values that are not finite"
        elif found.largest > tolerance:
            yield f"stage {stage} differs by {in_digits(found.largest, 2)}"
    if not stages.has_same_top_1:
        yield "stage scores has another best class"


def finite(value: float) -> float | None:
    """Return the value, or None for one that JSON cannot hold."""
    return value if math.isfinite(value) else None
