"""The golden inputs of an export, and what the reference answers to them.

Golden inputs are given with `--golden`, or made: the images in `mlserve/certificate/images` for a
classifier, and for a model of tensors rows that its source knows to be telling, or seeded ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.certificate.golden import Array, Arrays
from mlserve.certificate.verdict import (
    LABEL,
    SCORES,
    is_ranking,
)
from mlserve.errors import ExportError, MlserveError, UsageError, bounded
from mlserve.probe import tried
from mlserve.sample_rows import read_rows
from mlserve.sources import (
    PIXELS,
    Classifier,
    Model,
    ModelRequest,
    Reference,
    TensorModel,
)
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


def answered_questions(
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
