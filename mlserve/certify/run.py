"""Ask versions the golden questions, and the user's, each on a server started for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import read_golden
from mlserve.certificate.verdict import CaseVerdict, Verdict, judge
from mlserve.certify.files import Answering, Files
from mlserve.certify.result import Certified, FilesResult, GoldenResult, Problem
from mlserve.certify.subjects import Subject
from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.compare.asking import Served, requests_for, runs_on, served
from mlserve.errors import MlserveError, NotFound, PluginError, UsageError
from mlserve.launch.signals import Interrupts
from mlserve.served_runner import ServedRunner

Progress = Callable[[str, int, int, str], None]
"""Called with the current step, how much of it is done, of how much (0: unknown), what is next."""
_TOLERANCE = 1e-4
"""That of a version without a certificate, as in `mlserve compare`."""
_NO_CERTIFICATE = "it has no certificate, which would say how it must answer"
_GET_ONE = "export it again, with a model source and a backend that make certificates"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each version. `timeout` (seconds) applies to each request."""

    files: Files | None
    timeout: float
    progress: Progress


def certify(
    subjects: Sequence[Subject], against: Subject | None, question: Question
) -> Iterator[Certified]:
    """Yield what came of each: its golden inputs, and the files against the version `against`.

    A version that does not answer is a result too. Servers are stopped at the end. Raises the
    errors of `against` if that does not answer, and UsageError for files that cannot be read.
    """
    with Interrupts.watched() as interrupts, ExitStack() as stack:
        other = None
        if against is not None:
            other = stack.enter_context(_answering(against, interrupts, question.progress))
        for subject in subjects:
            tolerance = _tolerance(subject) + (0.0 if against is None else _tolerance(against))
            yield _certified(subject, other, tolerance, question, interrupts)


def _certified(
    subject: Subject,
    against: Answering | None,
    tolerance: float,
    question: Question,
    interrupts: Interrupts,
) -> Certified:
    found = Certified(subject.name, str(subject.version))
    if _certificate(subject) is None and against is None:
        return replace(found, why=_why_none(subject), hint=_GET_ONE)
    with ExitStack() as stack:
        try:
            answering = _answering(subject, interrupts, question.progress)
            asked = stack.enter_context(answering)
            found = replace(found, runs_on=runs_on(asked.client, question.timeout))
        except (PluginError, NotFound) as error:  # its runtime is not installed here
            return replace(found, why=error.message, hint=error.hint)
        except MlserveError as error:
            return replace(found, why=error.message, hint=error.hint, is_failed=True)
        try:
            return _asked(found, subject, asked, against, tolerance, question)
        except UsageError:  # of the files
            raise
        except MlserveError as error:
            return replace(found, why=error.message, hint=error.hint, is_failed=True)


def _asked(
    found: Certified,
    subject: Subject,
    asked: Answering,
    against: Answering | None,
    tolerance: float,
    question: Question,
) -> Certified:
    """Return the result with what the server answers. Raises its errors, and those of the files."""
    certificate = _certificate(subject)
    if certificate is not None:
        question.progress("golden inputs", 0, 0, subject.name)
        golden = _golden(subject, asked.client, certificate, question.timeout)
        found = replace(found, golden=golden)
    return replace(found, files=_files(subject, asked, against, tolerance, question))


def _golden(
    subject: Subject, client: Client, certificate: Certificate, timeout: float
) -> GoldenResult:
    """Ask the golden questions. Raises ModelLoadFailed if their files are damaged."""
    artifact = subject.version.artifact
    signatures = () if artifact.manifest is None else artifact.manifest.signatures
    runner = ServedRunner(client, {each.name: each for each in signatures}, timeout)
    verdict = judge(artifact, runner, read_golden(artifact.path), certificate)
    return golden_result(verdict, certificate)


def golden_result(verdict: Verdict, certificate: Certificate) -> GoldenResult:
    """Return what the verdict says of the golden inputs."""
    without_labels = certificate.same_labels is None

    def is_wrong(case: CaseVerdict) -> bool:
        is_unknown = math.isinf(case.difference)  # no answer, or one of another shape
        return is_unknown or (bool(case.problem) if without_labels else case.is_label_changed)

    return GoldenResult(
        certificate.reference,
        len(verdict.cases),
        sum(not is_wrong(case) for case in verdict.cases),
        verdict.difference,
        certificate.tolerance,
        without_labels,
        [Problem(case.name, case.problem) for case in verdict.problems],
        certificate.own_tolerance,
        [(case.name, case.difference) for case in verdict.cases],
    )


def _files(
    subject: Subject,
    asked: Answering,
    against: Answering | None,
    tolerance: float,
    question: Question,
) -> FilesResult | None:
    if question.files is None:
        return None
    manifest = subject.version.artifact.manifest
    pipeline = None if manifest is None else manifest.pipeline
    return question.files.ask(
        asked,
        against,
        classes=None if pipeline is None else pipeline.scored_classes,
        tolerance=tolerance,
        progress=partial(question.progress, "your files"),
    )


def _certificate(subject: Subject) -> Certificate | None:
    manifest = subject.version.artifact.manifest
    return None if manifest is None else manifest.certificate


def _why_none(subject: Subject) -> str:
    manifest = subject.version.artifact.manifest
    fact = None if manifest is None else manifest.facts.get("certificate")
    if fact is not None and fact.why:
        return f"it has no certificate: {fact.why.removeprefix('none: ')}"
    return _NO_CERTIFICATE


def _tolerance(subject: Subject) -> float:
    certificate = _certificate(subject)
    return _TOLERANCE if certificate is None else certificate.tolerance


@contextmanager
def _answering(subject: Subject, interrupts: Interrupts, progress: Progress) -> Iterator[Answering]:
    """Yield the endpoint, or a server that is started for the version and stopped at the end."""
    target = subject.target
    if target.endpoint is not None:
        with Client(target.endpoint, **subject.options) as client:
            yield Answering(Served(target, target.endpoint), client)
        return

    def tell(what: str) -> None:
        progress("servers", 0, 0, what)

    with served([target], requests_for([target]), interrupts, tell) as [found]:
        model, version = target.model, target.version
        with Client(
            found.endpoint, model=model, version=version, retries=ONCE, throttle=False
        ) as client:
            yield Answering(found, client)
