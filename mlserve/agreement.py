"""How often an exported model gives the reference's answers: measured, and held to a least share.

The agreement of an image is that of the best class. A row of a model of tensors agrees if its
labels and classes are the reference's, and if single numbers are near enough, or all of them if it
has no class (`mlserve.same_answers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.artifact import Artifact, Manifest
from mlserve.backend import Runner
from mlserve.calibration import Image, Samples, unusable
from mlserve.certificate.golden import Arrays, read_golden
from mlserve.certificate.golden_inputs import reference_steps
from mlserve.certificate.tolerance import tolerance_of
from mlserve.certificate.verdict import (
    LABEL,
    SCORES,
    answer_of,
    is_ranking,
    margin_of,
)
from mlserve.errors import ExportError, MlserveError, first_of, readable
from mlserve.precision import GOLDEN_ORIGIN, MIN_AGREEMENT, Precision
from mlserve.same_answers import differing, label_of
from mlserve.sample_rows import RowInput
from mlserve.sources import Classifier, Model, ModelRequest, Progress, Reference, TensorModel
from mlserve.tensors import Signature

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An input that the artifact answers otherwise; `margin` says how sure the reference is."""

    name: str
    what: str
    margin: float

    def __str__(self) -> str:
        return f"{readable(self.name)} ({self.what})"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of `inputs` with a known label the reference and the artifact answered right."""

    inputs: int
    reference: int
    artifact: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was measured on `inputs` images or rows, of which `same` got the reference's answer.

    `origin` says in words what they are; `calibrated_on` is the number of others that the model was
    quantised on. `worst` are those that disagree, the surest first.
    """

    reference: str
    inputs: int
    same: int
    least: float
    origin: str
    calibrated_on: int
    accuracy: Accuracy | None
    worst: Sequence[Disagreement]

    @property
    def share(self) -> float:
        """The part of the inputs with the reference's answer."""
        return self.same / self.inputs

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "reference": self.reference,
            "inputs": self.inputs,
            "same": self.same,
            "share": self.share,
            "least": self.least,
            "origin": self.origin,
            "calibrated_on": self.calibrated_on,
            "differing": [{"input": each.name, "what": each.what} for each in self.worst[:_LISTED]],
            "accuracy": None
            if self.accuracy is None
            else {
                "inputs": self.accuracy.inputs,
                "reference": self.accuracy.reference / self.accuracy.inputs,
                "artifact": self.accuracy.artifact / self.accuracy.inputs,
            },
        }


def gated(
    request: ModelRequest,
    model: Model,
    artifact: Artifact,
    manifest: Manifest,
    runner: Runner,
    samples: Samples | None,
    progress: Progress,
) -> Manifest:
    """Measure the agreement with the reference, and return the manifest with it.

    Without held-out inputs the golden ones decide. Raises ExportError if it is below the least.
    """
    if samples is None or model.reference is None:
        return manifest
    if samples.held_out:
        questions = _asked(model, model.reference, samples, runner, progress)
        origin = samples.origin
    else:
        questions = _golden(manifest, artifact)
        origin = GOLDEN_ORIGIN
    tally = _Tally(tolerance_of(request.precision, 0.0))
    for question in questions:
        tally.add(question)
    if not tally.inputs:
        raise ExportError(
            f"there is nothing to measure the agreement of {model.name} on",
            hint="give inputs of the model: --held-out DIR|FILE",
        )
    found = Agreement(
        reference=model.reference.framework,
        inputs=tally.inputs,
        same=tally.inputs - len(tally.worst),
        least=MIN_AGREEMENT if request.min_agreement is None else request.min_agreement,
        origin=origin,
        calibrated_on=len(samples.quantization.calibration),
        accuracy=tally.accuracy,
        worst=sorted(tally.worst, key=lambda each: -each.margin),
    )
    _require(found, model, request.precision)
    return replace(manifest, agreement=found.to_json())


@dataclass(frozen=True, slots=True)
class _Question:
    """An input, both answers to it, and the label that is right, if that is known.

    Some that are made up, such as noise, have no right answer: the reference is not sure either.
    """

    name: str
    expected: Arrays
    found: Arrays
    right: str | None = None
    is_made_up: bool = False


@dataclass(slots=True)
class _Tally:
    """Counts questions as they are answered."""

    tolerance: float
    inputs: int = 0
    worst: list[Disagreement] = field(default_factory=list)
    labelled: int = 0
    reference_right: int = 0
    artifact_right: int = 0

    def add(self, question: _Question) -> None:
        self.inputs += 1
        problem = differing(question.expected, question.found, self.tolerance)
        margin = margin_of(question.expected)
        is_close = margin is not None and margin <= 2 * self.tolerance
        if problem and not (question.is_made_up and is_close):
            self.worst.append(Disagreement(question.name, problem, margin or 0.0))
        if question.right is not None:
            self.labelled += 1
            self.reference_right += label_of(question.expected) == question.right
            self.artifact_right += label_of(question.found) == question.right

    @property
    def accuracy(self) -> Accuracy | None:
        if not self.labelled:
            return None
        return Accuracy(self.labelled, self.reference_right, self.artifact_right)


def _golden(manifest: Manifest, artifact: Artifact) -> Iterator[_Question]:
    if manifest.certificate is None:
        return
    for case in read_golden(artifact.path):
        yield _Question(case.name, case.expected, case.answered, is_made_up=True)


def _asked(
    model: Model, reference: Reference, samples: Samples, runner: Runner, progress: Progress
) -> Iterator[_Question]:
    """Ask both about each held-out input. Raises ExportError for one that the model refuses."""
    what = f"comparing {model.name} with {reference.framework}"
    ask = (
        _images(model, reference, runner)
        if isinstance(model, Classifier)
        else _rows(model, reference, samples.signature, runner)
    )
    for done, item in enumerate(samples.held_out):
        progress(what, done, len(samples.held_out))
        try:
            yield ask(item)
        except MlserveError as error:
            raise unusable(item, error) from error
    progress(what, len(samples.held_out), len(samples.held_out))


def _images(model: Classifier, reference: Reference, runner: Runner) -> Any:
    """Return what asks about an Image."""
    steps = reference_steps(model, reference)
    ranking = next(each for each in runner.signatures.values() if is_ranking(each))
    labels = [text.encode() for text in model.pipeline.full_labels(model.labels)]

    def ask(image: Image) -> _Question:
        data = image.read()
        scores = steps.batch_scores([data], None)
        label = np.array([labels[int(scores[0].argmax())]], dtype=object)
        outputs = runner.run(ranking.name, {"image": np.array([data], dtype=object)})
        found = answer_of(ranking, outputs)
        return _Question(image.name, {SCORES: scores, LABEL: label}, found, image.label)

    return ask


def _rows(
    model: TensorModel, reference: Reference, theirs: Signature | None, runner: Runner
) -> Any:
    """Return what asks about a RowInput."""
    if theirs is None:
        raise ValueError("rows are for a signature")
    served = runner.signatures
    only = next(iter(served.values())) if len(served) == len(model.signatures) == 1 else None
    ours = only or served.get(theirs.name)  # a backend may rename the only one
    if ours is None:
        raise ExportError(
            f"the export does not serve the signature {theirs.name}, which rows are for",
            hint="export it in fp32, without --held-out",
        )

    def ask(row: RowInput) -> _Question:
        expected = reference.run(theirs.name, row.inputs)
        names = {spec.name for spec in ours.outputs}
        kept = {name: array for name, array in expected.items() if name in names}
        return _Question(row.name, kept, runner.run(ours.name, row.inputs))

    return ask


def _require(found: Agreement, model: Model, precision: Precision) -> None:
    if found.share >= found.least:
        return
    reached = math.floor(found.share * 100) / 100
    listed = first_of([str(each) for each in found.worst], _LISTED)
    more = ""
    if found.origin == GOLDEN_ORIGIN:
        more = "measuring it on inputs like those in use: --held-out DIR|FILE; "
    elif precision.needs_calibration:
        more = "other --calibration inputs, more like those in use; "
    raise ExportError(
        f"{model.name} in {precision} gives the answers of {found.reference} to {found.same} of "
        f"{found.inputs} inputs ({found.share:.1%}), and at least {found.least:.1%} is asked for "
        f"({found.origin}). They differ most on {listed}",
        hint=f"try {more}another precision, or accept it: --min-agreement {reached:g}",
    )
