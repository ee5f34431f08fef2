"""Make the certificate of an export: golden inputs, the reference's answers, the artifact's own.

Golden inputs are given with `--golden`, or made: the images in `mlserve/certificate/images` for a
classifier, and for a model of tensors rows that its source knows to be telling, or seeded ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

from mlserve import plugins
from mlserve.artifact import Artifact, Manifest
from mlserve.backend import Runner
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import Array, Arrays, GoldenCase, write_golden
from mlserve.certificate.verdict import (
    LABEL,
    SCORES,
    Verdict,
    answer_of,
    compared,
    is_ranking,
    judge,
    margin_of,
)
from mlserve.distributions import install_command
from mlserve.errors import ExportError, MlserveError, UsageError, bounded
from mlserve.precision import Precision
from mlserve.probe import tried
from mlserve.sample_rows import read_rows
from mlserve.sources import (
    PIXELS,
    Classifier,
    Fact,
    How,
    Model,
    ModelRequest,
    Reference,
    TensorModel,
)
from mlserve.system import cpu_model
from mlserve.tensors import PREDICT, Signature

ROWS = 16
"""How many rows of a model of tensors are golden inputs, each a question of its own."""
GIVEN_ROWS = 64
"""The same of rows that the user gives."""
_MOST_BYTES = 2**27
"""The most that golden inputs and their answers take, before they are packed."""
_FIRST = "rocket.jpg"
"""The packaged image that a server asks first: in colours, not square and larger than the inputs of
most models, so that it shows each fault of an image pipeline."""
_SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGE_MODULES = ("numpy", "PIL", "simplejpeg")
"""What the image pipeline in Python imports: the extra `images`."""

TOLERANCE = 1e-4
"""The most that fp32 may differ from the reference: runtimes sum in different orders."""
_FLOORS = {
    Precision.FP32: 3e-5,
    Precision.BF16: 1e-2,
    Precision.FP16: 1e-3,
    Precision.INT8: 1e-2,
}
"""The least tolerance of a precision, however near the artifact was at export, as a share of the
largest score: scores of 0.001 each do not differ by 0.0001 unless something is wrong."""
_OWN = {Precision.INT8: 2e-2}
"""What answers may differ from those at the export. Sums of integers are exact: ONNX Runtime and
OpenVINO gave the same on every CPU with AVX2 (docs/parity.md), and differed by 0.007 with SSE4.2.
Sums that saturate on another CPU moved scores by 0.7."""
_ROOM, _ROOM_OF_FP32 = 2.0, 20.0
"""How much farther than at export another machine may be from the reference."""


@dataclass(frozen=True)
class Question:
    """A golden input before it is answered."""

    name: str
    signature: str
    inputs: Arrays


@dataclass(frozen=True)
class Answered:
    """A golden input with the reference's answer, as `GoldenCase.expected` has it."""

    question: Question
    expected: Arrays


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
    answered, refusal = _answered(request, model, model.reference, runner.signatures)
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


def _answered(
    request: ModelRequest,
    model: Model,
    reference: Reference,
    signatures: Mapping[str, Signature],
) -> tuple[list[Answered], str]:
    """Return the questions that the reference answers, and why the first other one is left out.

    Raises ExportError for a question of the user that it refuses, and UsageError for too many.
    """
    found: list[Answered] = []
    refusal, room = "", _MOST_BYTES
    for each in _asked(request, model, reference, signatures):
        if isinstance(each, str):
            refusal = refusal or each
            continue
        room -= sum(map(_size, each.question.inputs.values()))
        room -= 2 * sum(map(_size, each.expected.values()))  # the artifact's own are kept too
        if room < 0:
            refusal = refusal or f"an input and its answers take over {_MOST_BYTES >> 20} MiB"
            break
        found.append(each)
    if room < 0 and request.golden is not None:
        raise UsageError(
            f"--golden {request.golden} and the answers take more than {_MOST_BYTES >> 20} MiB",
            hint=f"give fewer: the first {len(found)} fit" if found else "give smaller ones",
        )
    return found, refusal


def _size(array: Array) -> int:
    """Return the bytes of an array, of texts too."""
    return array.nbytes if array.dtype != object else sum(map(len, array.flat))


def _asked(
    request: ModelRequest,
    model: Model,
    reference: Reference,
    signatures: Mapping[str, Signature],
) -> Iterator[Answered | str]:
    """Yield each question with the reference's answer, or why a made-up one has none."""
    if isinstance(model, Classifier):
        yield from _answered_images(request, model, reference, signatures)
        return
    for theirs, ours in _pairs(model.signatures, signatures.values()):
        if request.golden is not None:
            yield from _answered_rows(request.golden, model, reference, theirs, ours)
            return
        for question in _rows(reference, theirs, ours):
            if isinstance(question, str):
                yield f"the model refuses made-up inputs ({question})"
                continue
            try:
                expected = _kept(reference.run(theirs.name, question.inputs), ours)
            except MlserveError as error:
                yield f"the model refuses made-up inputs ({bounded(error.message)})"
                continue
            yield Answered(question, expected) if expected else "the outputs have other names"


def _kept(expected: Arrays, ours: Signature) -> Arrays:
    """Return the outputs that the artifact has too."""
    names = {spec.name for spec in ours.outputs}
    return {name: array for name, array in expected.items() if name in names}


def _answered_rows(
    path: Path, model: TensorModel, reference: Reference, theirs: Signature, ours: Signature
) -> Iterator[Answered]:
    """Yield the user's rows, each a question. Raises UsageError and ExportError."""
    rows = read_rows(path, "--golden", model, theirs)
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), GIVEN_ROWS)).astype(int))
    for row in (rows[place] for place in places):
        try:
            expected = reference.run(theirs.name, row.inputs)
        except MlserveError as error:
            raise ExportError(
                f"--golden {row.name} is refused by {reference.framework}: {error.message}",
                hint="leave the row out",
            ) from error
        yield Answered(Question(row.name, ours.name, row.inputs), _kept(expected, ours))


def _images(request: ModelRequest) -> Iterator[tuple[str, bytes]]:
    """Yield the golden images with their names. Raises UsageError for a folder without images."""
    if request.golden is None:
        packaged = files("mlserve.certificate").joinpath("images").iterdir()
        for file in sorted(packaged, key=lambda file: (file.name != _FIRST, file.name)):
            if file.name.endswith(_SUFFIXES):
                yield file.name, file.read_bytes()
        return
    paths = image_files(request.golden, "--golden")
    for path in paths:
        name = path.relative_to(request.golden).as_posix() if request.golden.is_dir() else path.name
        yield name, _content(path)


def _content(path: Path) -> bytes:
    """Return the bytes of a golden image. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--golden {path} cannot be read: {error.strerror or error}", hint="make it readable"
        ) from error


def image_files(path: Path, option: str) -> list[Path]:
    """Return the image files in a folder and the folders in it, sorted, or the one file.

    Raises UsageError if there is none.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    images = [file for file in found if file.suffix.lower() in _SUFFIXES and file.is_file()]
    if images:
        return images
    there = "has no .jpg or .png file" if path.exists() else "does not exist"
    raise UsageError(f"{option} {path} {there}", hint="give a folder of images, or one image")


def _answered_images(
    request: ModelRequest,
    model: Classifier,
    reference: Reference,
    signatures: Mapping[str, Signature],
) -> Iterator[Answered | str]:
    """Yield the images, each asked alone: the reference may take no batch.

    Raises ExportError for one of the user's that it refuses, and what `_images` raises.
    """
    ranking = next((name for name, each in signatures.items() if is_ranking(each)), None)
    if ranking is None:
        yield "the backend does not give the scores of all classes"
        return
    steps = reference_steps(model, reference)
    labels = np.array(
        [text.encode() for text in model.pipeline.full_labels(model.labels)], dtype=object
    )
    for name, data in _images(request):
        try:
            (scores,) = steps.batch_scores([data], None)
        except MlserveError as error:
            if request.golden is None:
                yield f"the model refuses {name} ({bounded(error.message)})"
                continue
            raise ExportError(
                f"the golden image {name} cannot be answered: {error.message}",
                hint=error.hint or "leave the image out of --golden",
            ) from error
        image = {"image": np.array([data], dtype=object)}
        best = labels[[int(scores.argmax())]]
        yield Answered(Question(name, ranking, image), {SCORES: scores[None], LABEL: best})


class ReferencePixels:
    """A classifier's reference, as `mlserve.image_pipeline.steps.Forward`."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def __call__(self, pixels: Any, deadline: Any = None) -> Any:
        """Return float32[N, units]."""
        return self._reference.run(PIXELS, {"images": pixels})["outputs"]

    def warm_up(self, black: Any) -> None:
        """Do nothing: its speed does not matter."""

    def close(self) -> None:
        """Do nothing: its model belongs to the export."""


def reference_steps(model: Classifier, reference: Reference) -> Any:
    """Return the image pipeline in Python around the reference, `image_pipeline.steps.ImageSteps`.

    Needs the extra `images`.
    """
    from mlserve.image_pipeline.steps import ImageSteps

    return ImageSteps(model.pipeline, ReferencePixels(reference))


def _pairs(
    theirs: Sequence[Signature], ours: Iterable[Signature]
) -> Iterator[tuple[Signature, Signature]]:
    """Yield the model's signatures with those that the artifact serves for them.

    A backend may rename the only one.
    """
    served = {signature.name: signature for signature in ours}
    if len(theirs) == len(served) == 1:
        yield theirs[0], next(iter(served.values()))
        return
    for signature in theirs:
        if signature.name in served:
            yield signature, served[signature.name]


def _rows(reference: Reference, theirs: Signature, ours: Signature) -> Iterator[Question | str]:
    """Yield questions of a row each, or one of all rows where they are not independent.

    Yields the reason instead if no inputs can be made up.
    """
    if theirs.method != PREDICT or not theirs.inputs:
        return
    batch = reference.probes
    if batch is None:
        trial = tried(theirs, lambda inputs: _tried(reference, theirs, inputs), rows=ROWS)
        if isinstance(trial, str):
            yield bounded(trial)
            return
        batch = trial.inputs
    sizes = {len(array) for array in batch.values() if array.ndim}
    if not (ours.has_rows and len(sizes) == 1):
        yield Question(f"{ours.name}, all rows", ours.name, batch)
        return
    (count,) = sizes
    places = np.unique(np.linspace(0, count - 1, min(count, ROWS)).astype(int))
    for place in places:
        row = {name: array[place : place + 1] for name, array in batch.items()}
        yield Question(f"{ours.name}, row {place}", ours.name, row)


def _tried(reference: Reference, signature: Signature, inputs: Arrays) -> Arrays:
    """Ask about a row alone, where there are rows: all of a large model may not fit the memory."""
    if signature.has_rows:
        inputs = {name: array[:1] for name, array in inputs.items()}
    return reference.run(signature.name, inputs)


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


def tolerance_of(precision: Precision, measured: float, largest: float = 1.0) -> float:
    """Return what an artifact may differ, whose largest difference at export was `measured`.

    `largest` is the largest score of the reference; 1 for outputs that are not scores. An infinite
    difference, as from a number to NaN, allows no more than none.
    """
    floor = _FLOORS[precision] * min(1.0, largest)
    if not np.isfinite(measured):
        return floor
    if precision is Precision.FP32:
        return min(TOLERANCE, max(floor, _ROOM_OF_FP32 * measured))
    return max(floor, _ROOM * measured)


def _steps(cases: Sequence[GoldenCase]) -> float:
    """Return two steps of the coarsest type of number of the answers: 0.002 for float16."""
    types = {array.dtype for case in cases for array in case.expected.values()}
    return 2 * max((float(np.finfo(each).eps) for each in types if each.kind in "fc"), default=0.0)


def _largest_score(cases: Sequence[GoldenCase]) -> float:
    """Return the largest score of the reference, 1 for a model with other outputs too.

    Of either sign: all logits of an input can be negative, and those of log_softmax are.
    """
    if not all({SCORES, LABEL} == set(case.expected) for case in cases):
        return 1.0
    sizes = np.abs(np.concatenate([case.expected[SCORES].ravel() for case in cases]))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0))


def _certificate(
    precision: Precision, reference: Reference, cases: Sequence[GoldenCase]
) -> Certificate:
    found = [compared(case, case.answered, TOLERANCE) for case in cases]
    measured = max(each.difference for each in found)
    tolerance = tolerance_of(precision, measured, _largest_score(cases))
    margins = [case.margin for case in cases if case.margin is not None]
    has_labels = any(LABEL in case.expected for case in cases)
    return Certificate(
        reference=reference.framework,
        cases=len(cases),
        tolerance=max(tolerance, _steps(cases)),
        difference=measured,
        same_labels=sum(not each.is_label_changed for each in found) if has_labels else None,
        smallest_margin=min(margins, default=None),
        made_on=cpu_model(),
        own_tolerance=_OWN.get(precision),
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


_WRONG = "export it with another backend, or in fp32; please report it with the model"
