"""Inputs of a model that the user gives to `mlserve export`: to quantise on, and to measure on.

Of an image classifier they are image files, which are read when they are asked for; of a model of
tensors they are the rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np  # noqa: TID253

from mlserve import plugins
from mlserve.backend import Quantization
from mlserve.certificate.golden_inputs import IMAGE_MODULES, image_files, reference_steps
from mlserve.distributions import install_command, not_installed
from mlserve.errors import ExportError, MlserveError, UsageError, counted, readable
from mlserve.hints import did_you_mean
from mlserve.labels import folder_label
from mlserve.sample_rows import Inputs, RowInput, read_rows
from mlserve.sources import Classifier, Model, ModelRequest, Progress, Reference, TensorModel
from mlserve.tensors import PREDICT, Signature

T = TypeVar("T")
MOST_CALIBRATED = 1000
"""Inputs to quantise on; of more, as many are taken that lie evenly among them."""
_MOST_HELD_BACK = 1000
_HELD_BACK = 5
"""Of the calibration inputs, one in so many is held back, if no others are given to measure on."""


@dataclass(frozen=True)
class Image:
    """An image file, and its label if the folder that was given says it."""

    path: Path
    name: str
    label: str | None = None

    def read(self) -> bytes:
        """Return the file's bytes. Raises UsageError."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be read: {error.strerror}", hint="make it readable"
            ) from error


class PreparedImages(Sequence[Inputs]):
    """Image files as a classifier takes them, {"images": float32[1, height, width, depth]}.

    Each is read and prepared when it is asked for, so that they never fill the memory. `faults` are
    the errors of those that could not be, also in parts of it.
    """

    def __init__(
        self,
        images: Sequence[Image],
        steps: Any,
        read: Callable[[], None],
        faults: list[MlserveError] | None = None,
    ) -> None:
        self._images = images
        self._steps = steps
        self._read = read
        self.faults = [] if faults is None else faults

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, at: int) -> Inputs: ...
    @overload
    def __getitem__(self, at: slice) -> PreparedImages: ...
    def __getitem__(self, at: int | slice) -> Inputs | PreparedImages:
        if isinstance(at, slice):
            return PreparedImages(self._images[at], self._steps, self._read, self.faults)
        image = self._images[at]
        self._read()
        try:
            return {"images": self._steps.pixels([image.read()], None)}
        except MlserveError as error:
            self.faults.append(unusable(image, error))
            raise self.faults[-1] from error


def unusable(image: Image | RowInput, error: MlserveError) -> ExportError:
    """Return the error for an input that the model does not take."""
    return ExportError(
        f"{readable(image.name)} cannot be used: {error.message}",
        hint=error.hint or "leave it out",
    )


@dataclass(frozen=True)
class Samples:
    """What the model is quantised on, and what its agreement is measured on.

    `held_out` are images or rows; empty if none were given and none could be held back. `origin`
    says in words where they come from. `signature` is the one that rows are for.
    """

    quantization: Quantization
    held_out: Sequence[Image | RowInput] = ()
    origin: str = ""
    signature: Signature | None = None

    @contextmanager
    def faults_named(self) -> Iterator[None]:
        """Raise the error of an image in place of what a library makes of it."""
        try:
            yield
        except Exception as error:
            faults = getattr(self.quantization.calibration, "faults", ())
            if not faults or error in faults:
                raise
            raise faults[0] from error


def samples_of(request: ModelRequest, model: Model, progress: Progress) -> Samples | None:
    """Return what the user gave for the export; None for fp32 without inputs to measure on.

    Raises UsageError for what holds no inputs of the model, and ExportError for a model without a
    reference to measure against.
    """
    if request.precision.is_reference and request.held_out is None:
        return None
    if model.reference is None:
        raise ExportError(
            f"{model.name} has no reference that the answers in {request.precision} could be "
            "measured against",
            hint="export it in fp32, without --held-out",
        )
    if isinstance(model, Classifier):
        return _images(request, model, model.reference, progress)
    return _rows(request, model)


def _images(
    request: ModelRequest, model: Classifier, reference: Reference, progress: Progress
) -> Samples:
    absent = plugins.absent_modules(IMAGE_MODULES)
    if absent:
        raise not_installed("reading images", *absent, hint=install_command("mlserve[images]"))
    given = _listed(request.calibration, "--calibration", model)
    held = _listed(request.held_out, "--held-out", model)
    _require_apart(request, given, held)
    kept, held_out, origin = _divided(request, given, held, "image")
    done = count(1)

    def read() -> None:
        progress(f"calibrating {model.name}", min(next(done), len(kept)), len(kept))

    prepared = PreparedImages(kept, reference_steps(model, reference), read)
    quantization = Quantization(request.precision, prepared, _classes(kept, model))
    return Samples(quantization, held_out, origin)


def _listed(path: Path | None, option: str, model: Classifier) -> list[Image]:
    """Return the images in a folder, with labels if its folders are named by the model's labels.

    Raises UsageError if only some of them are.
    """
    if path is None:
        return []
    files = image_files(path, option)
    root = path if path.is_dir() else path.parent
    images = [Image(file, file.relative_to(root).as_posix()) for file in files]
    found = [folder_label(file, root) for file in files]
    known = model.pipeline.full_labels(model.labels)
    texts = set(known)
    if not any(label in texts for label in found):
        numbers = {str(number): label for number, label in enumerate(known)}
        if not all(label in numbers for label in found):
            return images
        found = [numbers[label or ""] for label in found]
    for image, label in zip(images, found, strict=True):
        if label not in texts:
            what = "no folder" if label is None else f"{label!r}, which is not one of them"
            raise UsageError(
                f"{option} {path}: its folders are named by the labels of {model.name}, but "
                f"{image.name} lies in {what}",
                hint=f"{did_you_mean(label or '', known)}put each image into a folder named as its "
                "label, or all of them into one folder",
            )
    return [replace(image, label=label) for image, label in zip(images, found, strict=True)]


def _classes(images: Sequence[Image], model: Classifier) -> list[int] | None:
    """Return the number of each image's class; None if not known, or if labels are not unique."""
    known = model.pipeline.full_labels(model.labels)
    labels = [image.label for image in images]
    if None in labels or any(known.count(label or "") > 1 for label in set(labels)):
        return None
    number = {label: place for place, label in enumerate(known)}
    return [number[label] for label in labels if label is not None]


def _require_apart(request: ModelRequest, given: Sequence[Image], held: Sequence[Image]) -> None:
    both = {image.path.resolve() for image in given} & {image.path.resolve() for image in held}
    if both:
        raise UsageError(
            f"{counted(len(both), 'image')} of --held-out {request.held_out} would also be "
            f"calibrated on, such as {sorted(both)[0].name}: the agreement would look too good",
            hint="give other images to measure on, or leave --held-out out: then some of the "
            "calibration images are held back",
        )


def _divided(
    request: ModelRequest, given: Sequence[T], held: Sequence[T], noun: str
) -> tuple[Sequence[T], Sequence[T], str]:
    """Return what to quantise on, what to measure on, and where the latter comes from.

    Without held-out inputs, some of the calibration inputs are held back. Raises UsageError for
    fewer than two of these.
    """
    if request.held_out is not None:
        return evenly(given, MOST_CALIBRATED), held, f"{counted(len(held), noun)} held out"
    if not given:
        return (), (), ""
    if len(given) == 1:
        raise UsageError(
            f"--calibration {request.calibration} has one {noun}, which leaves none to measure the "
            "agreement on",
            hint="give a few hundred, or others to measure on: --held-out",
        )
    step = min(_HELD_BACK, len(given))
    back = [item for place, item in enumerate(given) if place % step == step - 1]
    rest = [item for place, item in enumerate(given) if place % step != step - 1]
    kept, back = evenly(rest, MOST_CALIBRATED), evenly(back, _MOST_HELD_BACK)
    origin = f"{counted(len(back), noun)} held back of {len(given)}, not calibrated on"
    return kept, back, origin


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most that many of the items, spread evenly over them."""
    if len(items) <= most:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, most)]


def _rows(request: ModelRequest, model: TensorModel) -> Samples:
    signature = next((s for s in model.signatures if s.method == PREDICT and s.inputs), None)
    if signature is None:
        raise ExportError(
            f"{model.name} has no signature with inputs that rows could be for",
            hint="export it in fp32, without --held-out",
        )
    given = read_rows(request.calibration, "--calibration", model, signature)
    held = read_rows(request.held_out, "--held-out", model, signature)
    if request.calibration and request.held_out and request.calibration.samefile(request.held_out):
        raise UsageError(
            f"--held-out {request.held_out} is the file that is calibrated on: the agreement would "
            "look too good",
            hint="give other rows to measure on, or leave --held-out out: then some of the "
            "calibration rows are held back",
        )
    kept, held_out, origin = _divided(request, given, held, "row")
    quantization = Quantization(request.precision, [row.inputs for row in kept])
    return Samples(quantization, held_out, origin, signature)
