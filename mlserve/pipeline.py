"""The image pipeline as data: one description that every backend builds the same steps from.

    bytes or base64 -> decode -> resize -> scale -> model -> scores -> labels

With these settings TensorFlow's decoder gives the same bytes as libjpeg-turbo's, and its resize
equals OpenCV's `INTER_LINEAR` on floats within 4e-5: equal answers are a contract, not a hope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from mlserve.errors import ExportError

_VERSIONS = (1, 2)
"""Version 2 turns images by their EXIF orientation; an mlserve that knows 1 only refuses it."""
BACKGROUND = "background"
"""The label of class 0 in a model that has one output more than it has labels (1001 for 1000)."""


class Exif(StrEnum):
    """What becomes of the orientation that a camera wrote into an image's EXIF data."""

    IGNORE = "ignore"
    """The pixels are taken as they are stored."""
    APPLY = "apply"
    """The image is turned and mirrored upright before it is resized."""


class Activation(StrEnum):
    """What turns the model's outputs into scores that add up to 1."""

    SOFTMAX = "softmax"
    """The model gives logits: float32[N, classes]."""
    IDENTITY = "identity"
    """The model gives probabilities already: float32[N, classes]."""
    SIGMOID = "sigmoid"
    """The model gives the logit of the second of two classes: float32[N, 1]."""
    COMPLEMENT = "complement"
    """The model gives the probability of the second of two classes: float32[N, 1]."""

    @property
    def is_binary(self) -> bool:
        return self in (Activation.SIGMOID, Activation.COMPLEMENT)


@dataclass(frozen=True, slots=True)
class ImagePipeline:
    """How an image file becomes the model's input, and the model's output becomes labels.

    Pixels are RGB, 0..255; the model gets `pixel * scale + offset` as float32[N, height, width, 3].
    Resizing is bilinear with half-pixel centres and without antialiasing, straight to the target
    size (no crop, no letterbox). Grey images are repeated over the channels, CMYK is converted,
    alpha is dropped, 16-bit PNG is cut to its upper 8 bits, EXIF orientation counts if
    `exif` says so.
    An image of more than `max_pixels` by its header is refused before it is decoded.
    `class_offset` is 1 when the model has a background class that the labels do not list.
    """

    height: int
    width: int
    scale: float
    offset: float
    activation: Activation
    classes: int
    class_offset: int = 0
    top_k: int = 5
    max_pixels: int = 100_000_000
    jpeg_dct: str = "INTEGER_ACCURATE"
    resize: str = "bilinear_half_pixel_no_antialias"
    exif: Exif = Exif.IGNORE

    @property
    def version(self) -> int:
        """The version that a reader has to know; the lowest one that says all."""
        return 2 if self.exif is Exif.APPLY else 1

    @property
    def scored_classes(self) -> int:
        """The number of scores, which is one more than the model's outputs for a binary model."""
        return 2 if self.activation.is_binary else self.classes

    def full_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The label of every score, with the background class put in front where there is one.

        Raises ExportError when the number of labels does not fit the number of classes.
        """
        _check_label_count(len(labels), self)
        return (BACKGROUND,) * self.class_offset + tuple(labels)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "version": self.version}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImagePipeline:
        """Reads what `to_json` wrote. Raises ValueError for a version that this mlserve cannot."""
        if data.get("version") not in _VERSIONS:
            raise ValueError(f"image pipeline version {data.get('version')!r} is not known")
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        exif = Exif(data.get("exif", Exif.IGNORE))
        return cls(**{**values, "activation": Activation(data["activation"]), "exif": exif})


def class_offset(classes: int, labels: int) -> int:
    """0 when there is a label for each class, 1 when only the background class has none.

    Raises ExportError for any other difference: labels that are off by one are never a guess.
    """
    difference = classes - labels
    if difference in (0, 1) and labels > 0:
        return difference
    raise ExportError(
        f"the model has {classes} classes and there are {labels} labels",
        hint="give one label a line, in the order of the model's outputs, with --labels FILE "
        "(a background class in front may be left out)",
    )


def _check_label_count(labels: int, pipeline: ImagePipeline) -> None:
    if class_offset(pipeline.scored_classes, labels) != pipeline.class_offset:
        raise ExportError(
            f"{labels} labels do not fit {pipeline.scored_classes} classes "
            f"with a class offset of {pipeline.class_offset}",
            hint="export the model again with its own labels: mlserve export --labels FILE",
        )
