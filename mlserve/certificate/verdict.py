"""The verdict: whether a runtime here gives the answers of an artifact's certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np  # noqa: TID253

from mlserve.artifact import Artifact, Manifest
from mlserve.backend import Runner
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import Array, Arrays, GoldenCase
from mlserve.errors import DeadlineExceeded, InvalidInput, MlserveError, Overloaded
from mlserve.pipeline import RANKING
from mlserve.tensors import Signature

SCORES, LABEL = "scores", "label"
"""The answers of an image classifier, as `GoldenCase.expected` has them."""
_DISTRIBUTIONS = (SCORES, "probabilities")
"""Outputs of which each row has a score a class, so that it has a margin."""
_MATRIX = 2


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

    @property
    def problems(self) -> tuple[CaseVerdict, ...]:
        """The answers that are not right, the farthest first."""
        wrong = (case for case in self.cases if case.problem)
        return tuple(sorted(wrong, key=lambda case: -case.difference))


def answer_of(signature: Signature, outputs: Arrays) -> dict[str, Array]:
    """Return outputs as `GoldenCase.expected` has them.

    Those of a classifier's `ranking`, which gives the classes in the order of their scores, are put
    into the order of the classes; any other's are returned as they are.
    """
    if not is_ranking(signature):
        return dict(outputs)
    order, scores = outputs["indices"], np.empty_like(outputs["scores"])
    np.put_along_axis(scores, order, outputs["scores"], axis=1)
    return {SCORES: scores, LABEL: outputs["labels"][:, 0]}


def is_ranking(signature: Signature) -> bool:
    """Return whether the signature gives all classes of an image."""
    names = {spec.name for spec in signature.outputs}
    return signature.name == RANKING and names == {"indices", "labels", "scores"}


def margin_of(expected: Arrays) -> float | None:
    """Return the least difference of the two best scores of a row; None without finite scores."""
    margins = [
        float(np.diff(np.sort(array, axis=1)[:, -2:], axis=1).min())
        for name, array in expected.items()
        if name in _DISTRIBUTIONS
        and array.ndim == _MATRIX
        and array.shape[1] > 1
        and len(array)
        and np.isfinite(array).all()
    ]
    return min(margins, default=None)


def difference(expected: Array, found: Array) -> float:
    """Return how far numbers are from the reference's: infinite if they are not comparable.

    It is the largest absolute difference, divided by the largest number of the reference where that
    is above 1: scores of 0 to 1 count as they are. NaN and infinite are equal to themselves.
    """
    if expected.shape != found.shape or found.dtype == object:
        return np.inf
    if not expected.size:
        return 0.0
    wide = np.complex128 if "c" in expected.dtype.kind + found.dtype.kind else np.float64
    reference, other = expected.astype(wide), found.astype(wide)
    is_same = (reference == other) | (np.isnan(reference) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.asarray(np.abs(other - reference))  # of scalars it is none
    far[np.isnan(far)] = np.inf
    far[is_same] = 0.0
    finite = np.abs(reference[np.isfinite(reference)])
    return float(far.max() / max(1.0, finite.max(initial=0.0)))


def compared(case: GoldenCase, found: Arrays, tolerance: float, beside: str = "") -> CaseVerdict:
    """Return what is wrong with an answer, given as `answer_of` returns it.

    A label may differ only where the two best scores of the reference are so close that differences
    within the tolerance can swap them, and another class is the best here. `beside` says in which
    company the question was asked.
    """
    worst, output, problems, is_label_changed = 0.0, "", [], False
    is_close = case.margin is not None and case.margin <= 2 * tolerance
    may_differ = is_close and _is_best_another(case.expected, found)
    for name, expected in case.expected.items():
        other = found.get(name)
        if other is None:
            far, problem = np.inf, f"there is no output {name}"
        elif expected.dtype.kind in "fc":
            far = difference(expected, other)
            problem = f"{name} differs by {far:.2g}" if far > tolerance else ""
        else:
            far, is_equal = 0.0, bool(np.array_equal(expected, other))
            is_label_changed |= name == LABEL and not is_equal
            problem = "" if is_equal or may_differ else _changed(name, expected, other)
        if far > worst or not output:
            worst, output = far, name
        problems.append(problem)
    words = "; ".join(filter(None, problems))
    return CaseVerdict(
        case.name, worst, output, is_label_changed, f"{beside}{words}" if words else ""
    )


def held_to(
    certificate: Certificate, case: GoldenCase, found: Arrays, beside: str = ""
) -> CaseVerdict:
    """Return what is wrong with an answer by the certificate, given as `answer_of` returns it.

    It is compared with the reference's, and with what the artifact answered where it was exported:
    an int8 model may be far from fp32, and must still give the same answers on every CPU.
    """
    verdict = compared(case, found, certificate.tolerance, beside)
    if verdict.problem or certificate.own_tolerance is None:
        return verdict
    for name, before in case.answered.items():
        if name not in found or before.dtype.kind not in "fc":
            continue
        far = difference(before, found[name])
        if far > certificate.own_tolerance:
            why = f"{beside}{name} differs by {far:.2g} from what it was at the export"
            return replace(verdict, problem=why)
    return verdict


def _is_best_another(expected: Arrays, found: Arrays) -> bool:
    """Return whether the class with the best score is another in a row, or shares its score."""
    for name, scores in expected.items():
        other = found.get(name)
        if name not in _DISTRIBUTIONS or other is None or other.shape != scores.shape:
            continue
        if scores.ndim == _MATRIX and scores.size:
            is_best = scores == scores.max(axis=1, keepdims=True)
            is_best_here = other == other.max(axis=1, keepdims=True)
            if (is_best.sum(axis=1) > 1).any() or not np.array_equal(is_best, is_best_here):
                return True
    return False


def _changed(name: str, expected: Array, found: Array) -> str:
    if expected.size == found.size == 1:
        return f"{name} is {_shown(found.flat[0])}, not {_shown(expected.flat[0])}"
    return f"{name} differs"


def _shown(value: object) -> str:
    return repr(value.decode(errors="replace")) if isinstance(value, bytes) else str(value)


def judge_case(runner: Runner, case: GoldenCase, certificate: Certificate) -> CaseVerdict:
    """Ask one golden question, as one request of a client would. Raises what `Runner.run` does."""
    outputs = runner.run(case.signature, case.inputs)
    answer = answer_of(runner.signatures[case.signature], outputs)
    return held_to(certificate, case, answer)


def judge_together(
    runner: Runner, cases: Sequence[GoldenCase], certificate: Certificate
) -> Iterator[CaseVerdict]:
    """Ask all questions of a signature as one batch. Raises what `Runner.run` does.

    Those that cannot be asked together, as their inputs have other sizes, are left out. All must be
    about signatures with rows.
    """
    for (name, *_), group in groupby(sorted(cases, key=_sizes), key=_sizes):
        several = list(group)
        if len(several) < 2:  # noqa: PLR2004
            continue
        inputs = {
            key: np.concatenate([case.inputs[key] for case in several]) for key in several[0].inputs
        }
        answer = answer_of(runner.signatures[name], runner.run(name, inputs))
        at = 0
        for case in several:
            rows = len(next(iter(case.inputs.values())))
            part = {key: array[at : at + rows] for key, array in answer.items()}
            at += rows
            yield held_to(certificate, case, part, f"in a batch of {len(several)}: ")


def _sizes(case: GoldenCase) -> tuple[str, ...]:
    """Return the signature, and what must be equal for inputs to be joined, as texts."""
    inputs = (
        f"{name} {array.dtype} {array.shape[1:]}" for name, array in sorted(case.inputs.items())
    )
    return (case.signature, *inputs)


def can_be_asked_together(manifest: Manifest | None, signatures: Mapping[str, Signature]) -> bool:
    """Return whether requests may share a batch, so that their answers must be right in one."""
    is_independent = manifest is not None and not manifest.has_dependent_rows
    return is_independent and all(signature.has_rows for signature in signatures.values())


def judge(
    artifact: Artifact, runner: Runner, cases: Sequence[GoldenCase], certificate: Certificate
) -> Verdict:
    """Ask each question alone, and all as one batch where the model has independent rows.

    An error of the Runner is a problem of its case.
    """
    alone = [case_verdict(runner, case, certificate) for case in cases]
    asked = {
        name: signature
        for name, signature in runner.signatures.items()
        if any(case.signature == name for case in cases)
    }
    if not can_be_asked_together(artifact.manifest, asked):
        return Verdict(tuple(alone))
    try:
        together = {found.name: found for found in judge_together(runner, cases, certificate)}
    except InvalidInput:  # it takes no batch of that size, so no answer in one is wrong
        together = {}
    except MlserveError as error:
        together = {cases[0].name: failed(cases[0], f"in a batch: {error.message}")}
    return Verdict(tuple(_worse(found, together.get(found.name)) for found in alone))


def _worse(alone: CaseVerdict, together: CaseVerdict | None) -> CaseVerdict:
    if together is None or alone.problem:
        return alone
    return together if together.problem or together.difference > alone.difference else alone


def case_verdict(runner: Runner, case: GoldenCase, certificate: Certificate) -> CaseVerdict:
    """Ask one golden question; an error of the Runner is a problem of its case."""
    try:
        return judge_case(runner, case, certificate)
    except MlserveError as error:
        return failed(case, error.message)


def verdict_in_company(
    runner: Runner, case: GoldenCase, other: GoldenCase, certificate: Certificate
) -> CaseVerdict:
    """Ask one golden question alone, then in a batch with another of the same signature.

    Raises what `Runner.run` does alone. What it raises in a batch is a problem, if it is not for
    want of time or memory.
    """
    alone = judge_case(runner, case, certificate)
    try:
        together = [
            found
            for found in judge_together(runner, [case, other], certificate)
            if found.name == case.name
        ]
    except (DeadlineExceeded, Overloaded):
        raise
    except InvalidInput:  # it takes no batch of two
        together = []
    except MlserveError as error:
        together = [failed(case, f"in a batch: {error.message}")]
    return _worse(alone, together[0] if together else None)


def failed(case: GoldenCase, why: str) -> CaseVerdict:
    """Return the verdict of a golden question that got an error instead of an answer."""
    return CaseVerdict(case.name, np.inf, "", is_label_changed=False, problem=why)
