"""The verdict: whether a runtime here gives the answers of an artifact's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """What a Runner answered to one golden input.

    `difference` is the largest from the reference, in `output`, as `Certificate.tolerance` counts
    it. `problem` says in words what does not hold; empty if all does.
    """

    name: str
    difference: float
    output: str
    is_label_changed: bool
    problem: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a Runner answered to golden inputs."""

    cases: tuple[CaseVerdict, ...]

    @property
    def holds(self) -> bool:
        """Whether every answer is within the tolerance."""
        return not any(case.problem for case in self.cases)

    @property
    def difference(self) -> float:
        """The largest difference from the reference."""
        return max((case.difference for case in self.cases), default=0.0)


def judge_case(runner: Runner, case: GoldenCase, certificate: Certificate) -> CaseVerdict:
    """Ask one golden question, as one request of a client would. Raises what `Runner.run` does."""
    raise NotImplementedError


def judge(
    artifact: Artifact, runner: Runner, cases: Sequence[GoldenCase], certificate: Certificate
) -> Verdict:
    """Ask each question alone, and all as one batch where the model has independent rows.

    An error of the Runner is a problem of its case.
    """
    raise NotImplementedError
