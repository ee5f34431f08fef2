"""Make the certificate of an export: the reference's answers to golden inputs, and the artifact's.

`golden_inputs` finds the questions and has the reference answer them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np  # noqa: TID253

from mlserve import plugins
from mlserve.artifact import Artifact, Manifest
from mlserve.backend import Runner
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase, write_golden
from mlserve.certificate.golden_inputs import IMAGE_MODULES, Answered, answered_questions
from mlserve.certificate.tolerance import (
    OWN_TOLERANCES,
    TOLERANCE,
    coarse_steps,
    largest_score,
    tolerance_of,
)
from mlserve.certificate.verdict import (
    LABEL,
    Verdict,
    answer_of,
    compared,
    judge,
    margin_of,
)
from mlserve.distributions import install_command
from mlserve.errors import ExportError, MlserveError
from mlserve.precision import Precision
from mlserve.sources import Classifier, Fact, How, Model, ModelRequest, Reference
from mlserve.system import cpu_model

_WRONG = "export it with another backend, or in fp32; please report it with the model"


def certified(
    request: ModelRequest, model: Model, artifact: Artifact, manifest: Manifest, runner: Runner
) -> Manifest:
    """Ask the reference and the artifact the golden questions; write them into the artifact.

    Returns the manifest with the certificate, or with the reason why there is none. Raises
    ExportError if the artifact does not give the answers that its precision allows.
    """
    if model.reference is None:
        _require_none_given(request, f"{model.name} has no reference to answer them")
        return manifest
    absent = plugins.absent_modules(IMAGE_MODULES) if isinstance(model, Classifier) else ()
    if absent:
        install = install_command("mlserve[images]")
        return _without(request, manifest, f"none: its images need {', '.join(absent)}: {install}")
    answered, refusal = answered_questions(request, model, model.reference, runner.signatures)
    if not answered:
        return _without(request, manifest, f"none: {refusal or 'there is nothing to ask'}")
    answered = _decided(model, model.reference, answered)
    if not answered:
        return _without(request, manifest, "none: the model gives two answers to the same input")
    cases = [_case(each, runner) for each in answered]
    certificate = _certificate(manifest.precision, model.reference, cases)
    manifest = _told_of_no_numbers(manifest, cases)
    manifest, verdict = _judged(replace(manifest, certificate=certificate), artifact, runner, cases)
    _require(model, cases, verdict)
    write_golden(cases, artifact.path)
    return manifest


def _told_of_no_numbers(manifest: Manifest, cases: Sequence[GoldenCase]) -> Manifest:
    """Return the manifest with a warning if answers are NaN or infinite, which equal themselves."""
    count = sum(
        any(array.dtype.kind in "fc" and not np.isfinite(array).all() for array in answers)
        for answers in (case.expected.values() for case in cases)
    )
    if not count:
        return manifest
    why = f"the model answers {count} of {len(cases)} golden inputs with NaN or infinity"
    fact = Fact(How.FOUND, why, f"{why}: that an answer is the same proves nothing there")
    return replace(manifest, facts={**manifest.facts, "certificate": fact})


def _without(request: ModelRequest, manifest: Manifest, why: str) -> Manifest:
    _require_none_given(request, f"there is no certificate: {why}")
    return replace(manifest, facts={**manifest.facts, "certificate": Fact(How.ASSUMED, why)})


def _require_none_given(request: ModelRequest, why: str) -> None:
    if request.golden is not None:
        raise ExportError(
            f"--golden {request.golden} has no effect: {why}", hint="leave --golden out"
        )


def _decided(model: Model, reference: Reference, answered: list[Answered]) -> list[Answered]:
    """Return the questions about signatures that give the same answer when asked again."""
    if isinstance(model, Classifier):
        return answered  # measured when it was opened
    names = [signature.name for signature in model.signatures]
    undecided = {
        each.question.signature for each in answered if _is_undecided(names, reference, each)
    }
    return [each for each in answered if each.question.signature not in undecided]


def _is_undecided(names: Sequence[str], reference: Reference, answered: Answered) -> bool:
    """Return whether the model itself, with signatures of these names, gives another answer now."""
    question = answered.question
    name = question.signature if question.signature in names else names[0]
    case = GoldenCase(question.name, name, question.inputs, answered.expected, {}, None)
    return bool(compared(case, reference.run(name, question.inputs), TOLERANCE).problem)


def _case(answered: Answered, runner: Runner) -> GoldenCase:
    question = answered.question
    try:
        outputs = runner.run(question.signature, question.inputs)
    except MlserveError as error:
        raise ExportError(
            f"the exported model does not answer the golden input {question.name}: {error.message}",
            hint=error.hint or _WRONG,
        ) from error
    return GoldenCase(
        question.name,
        question.signature,
        question.inputs,
        answered.expected,
        answer_of(runner.signatures[question.signature], outputs),
        margin_of(answered.expected),
    )


def _certificate(
    precision: Precision, reference: Reference, cases: Sequence[GoldenCase]
) -> Certificate:
    found = [compared(case, case.answered, TOLERANCE) for case in cases]
    measured = max(each.difference for each in found)
    tolerance = tolerance_of(precision, measured, largest_score(cases))
    margins = [case.margin for case in cases if case.margin is not None]
    has_labels = any(LABEL in case.expected for case in cases)
    return Certificate(
        reference=reference.framework,
        cases=len(cases),
        tolerance=max(tolerance, coarse_steps(cases)),
        difference=measured,
        same_labels=sum(not each.is_label_changed for each in found) if has_labels else None,
        smallest_margin=min(margins, default=None),
        made_on=cpu_model(),
        own_tolerance=OWN_TOLERANCES.get(precision),
    )


def _judged(
    manifest: Manifest, artifact: Artifact, runner: Runner, cases: Sequence[GoldenCase]
) -> tuple[Manifest, Verdict]:
    """Return the verdict; if only batches are wrong, that of single requests, and a warning."""
    certificate = manifest.certificate
    if certificate is None:
        raise ValueError("only what has a certificate is judged")
    verdict = judge(replace(artifact, manifest=manifest), runner, cases, certificate)
    if verdict.holds or manifest.has_dependent_rows:
        return manifest, verdict
    single = replace(manifest, has_dependent_rows=True)
    alone = judge(replace(artifact, manifest=single), runner, cases, certificate)
    if not alone.holds:
        return manifest, verdict
    why = f"an answer depends on the others in its batch ({verdict.problems[0].problem})"
    fact = Fact(How.FOUND, why, f"{why}: requests are never run together as a batch")
    return replace(single, facts={**manifest.facts, "rows": fact}), alone


def _require(model: Model, cases: Sequence[GoldenCase], verdict: Verdict) -> None:
    if verdict.holds:
        return
    first = verdict.problems[0]
    raise ExportError(
        f"the exported {model.name} does not give the answers of {_framework(model)}: of "
        f"{len(cases)} golden inputs {len(verdict.problems)} differ, most {first.name}: "
        f"{first.problem}",
        hint=_WRONG,
    )


def _framework(model: Model) -> str:
    return model.reference.framework if model.reference else model.framework
