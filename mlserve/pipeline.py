"""The image pipeline as data: one description from which every backend builds the same steps.

    bytes or base64 -> decode -> EXIF -> preprocessing -> model -> scores -> labels

With the default settings TensorFlow's decoder gives the same bytes as libjpeg-turbo's, and its
resize equals OpenCV's `INTER_LINEAR` on floats within 4e-5: equal answers are guaranteed.
`mlserve.preprocessing` describes the steps between the decoded image and the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from mlserve.errors import ExportError, UsageError
from mlserve.images import MAX_DECODE_BYTES, MAX_PIXELS, MAX_SCANS, MAX_SIDE, ImageLimits
from mlserve.preprocessing import (
    MOST_SIDE,
    VERSION_1,
    Arithmetic,
    Channels,
    Interpolation,
    Preprocessing,
    ResizeMode,
)

_VERSIONS = (1, 2, 3)
"""Version 2 adds EXIF orientation, version 3 Preprocessing; an older mlserve refuses them."""
_RESIZE_OF_OLD = {"resize": "bilinear_half_pixel_no_antialias"}
"""What versions 1 and 2 say in place of the Preprocessing."""
BACKGROUND = "background"
"""The label of class 0 in a model with a background class that its labels do not list."""
_IMAGENET = (1001, 1000)
"""Classes and labels of the only models known to have a background class: TensorFlow's ImageNet."""


DEFAULT_TOP_K = 5
RANKING = "ranking"
"""The signature of an image classifier that gives all classes, ordered by score."""
_MOST_CLASSES, _MOST = 2**24, 2**53
_LARGEST_FLOAT = 2.0**127
"""The largest scale or offset, in the range of float32."""
_BOUNDS = (
    ("height", 1, MOST_SIDE),
    ("width", 1, MOST_SIDE),
    ("classes", 1, _MOST_CLASSES),
    ("class_offset", 0, 1),
    ("top_k", 1, _MOST_CLASSES),
    ("max_pixels", 1, _MOST),
    ("max_side", 1, _MOST),
    ("max_scans", 1, _MOST),
    ("max_decode_bytes", 1, _MOST),
)
"""The integer fields of a pipeline, each with its minimum and maximum."""


class Exif(StrEnum):
    """How the EXIF orientation of an image is treated."""

    IGNORE = "ignore"
    """Take the pixels as stored."""
    APPLY = "apply"
    """Turn and mirror the image upright before resizing."""


class Activation(StrEnum):
    """How the model's outputs become scores that add up to 1."""

    SOFTMAX = "softmax"
    """The model returns logits: float32[N, classes]."""
    IDENTITY = "identity"
    """The model returns probabilities: float32[N, classes]."""
    SIGMOID = "sigmoid"
    """The model returns the logit of the second of two classes: float32[N, 1]."""
    COMPLEMENT = "complement"
    """The model returns the probability of the second of two classes: float32[N, 1]."""

    @property
    def is_binary(self) -> bool:
        return self in (Activation.SIGMOID, Activation.COMPLEMENT)


class Feature(StrEnum):
    """What a pipeline may need of a backend beyond version 1, as what the backend has to do."""

    EXIF = "apply the EXIF orientation"
    CHANNELS = "turn RGB into BGR or grey"
    SIZES = "keep the ratio of an image, or cut its centre"
    ANTIALIAS = "resize with antialiasing"
    BICUBIC = "resize by bicubic interpolation"
    NEAREST = "resize to the nearest pixels"
    NORMALIZATION = "divide pixels, or use mean and std"


@dataclass(frozen=True, slots=True)
class ImagePipeline:
    """How an image file becomes the model's input, and the model's output becomes labels.

    Decoded pixels are RGB, 0..255. Grey images are repeated over the channels, CMYK is converted,
    alpha is dropped, 16-bit PNG is cut to its upper 8 bits, EXIF orientation is applied if `exif`
    says so. The model gets float32[N, height, width, preprocessing.depth]: by default `pixel *
    scale + offset` of the image resized straight to that size, bilinear with half-pixel centres and
    without antialiasing; otherwise what `preprocessing` says. An image whose file is over one of
    the limits is refused before it is decoded (see `mlserve.images`). `class_offset` is 1 when
    class 0 is a background class that the labels do not list; `is_background_given` means that the
    user declared it (`mlserve export --background`).
    """

    height: int
    width: int
    scale: float
    offset: float
    activation: Activation
    classes: int
    class_offset: int = 0
    top_k: int = DEFAULT_TOP_K
    max_pixels: int = MAX_PIXELS
    jpeg_dct: str = "INTEGER_ACCURATE"
    is_background_given: bool = False
    exif: Exif = Exif.IGNORE
    max_side: int = MAX_SIDE
    max_scans: int = MAX_SCANS
    max_decode_bytes: int = MAX_DECODE_BYTES
    preprocessing: Preprocessing = VERSION_1

    @property
    def limits(self) -> ImageLimits:
        """Return the limits on one image."""
        return ImageLimits(self.max_pixels, self.max_side, self.max_scans, self.max_decode_bytes)

    @property
    def version(self) -> int:
        """Return the lowest format version that can express this pipeline."""
        if self.preprocessing != VERSION_1:
            return 3
        return 2 if self.exif is Exif.APPLY else 1

    @property
    def features(self) -> frozenset[Feature]:
        """Return what the pipeline needs of a backend beyond version 1."""
        return features_of(self.exif, self.preprocessing)

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width of the model's input."""
        return self.height, self.width

    @property
    def scored_classes(self) -> int:
        """Return the number of scores: one more than the model's outputs for a binary model."""
        return 2 if self.activation.is_binary else self.classes

    def full_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the label of every score, with the background class first if there is one.

        Raises ExportError when the number of labels does not fit the number of classes, and
        UsageError for a background class that was a guess.
        """
        self.require_known_background()
        if len(labels) + self.class_offset != self.scored_classes:
            raise ExportError(
                f"{len(labels)} labels do not fit {self.scored_classes} classes "
                f"with a class offset of {self.class_offset}",
                hint="export the model again with its own labels: mlserve export --labels FILE",
            )
        return (BACKGROUND,) * self.class_offset + tuple(labels)

    def require_known_background(self) -> None:
        """Raise UsageError for a background class that an older export took for granted.

        mlserve used to treat any one missing label as that of a background class. If another label
        was missing, each answer has the name of the class before it: "no defect" for a defect.
        """
        is_known = self.is_background_given or self.scored_classes == _IMAGENET[0]
        if self.class_offset and not is_known:
            raise UsageError(
                f"class 0 of {self.scored_classes} was taken for a background class because there "
                f"were {self.scored_classes - 1} labels, which nobody confirmed: the labels may be "
                "off by one",
                hint="export the model again: with --background if class 0 is a background class, "
                f"else with {self.scored_classes} labels",
            )

    def require_sane(self) -> None:
        """Raise ValueError for a number that no pipeline can have: manifests are not trusted."""
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"{name} is {value!r:.50}, not a whole number up to {most}")
        for name in ("scale", "offset"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not abs(value) <= _LARGEST_FLOAT:
                raise ValueError(f"{name} is {value!r:.50}, not a number")
        self.preprocessing.require_sane(self.scale, self.offset)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        if self.version < _VERSIONS[-1]:
            del data["preprocessing"]
            data = _inserted(data, _RESIZE_OF_OLD, before="is_background_given")
        return {**data, "version": self.version}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImagePipeline:
        """Read the output of `to_json`. Raises ValueError for a version that is too new."""
        version = data.get("version")
        if version not in _VERSIONS:
            raise ValueError(f"image pipeline version {version!r} is not known")
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["exif"] = Exif(data.get("exif", Exif.IGNORE))
        values["activation"] = Activation(data["activation"])
        values.pop("preprocessing", None)
        if version == _VERSIONS[-1]:
            values["preprocessing"] = Preprocessing.from_json(data["preprocessing"])
        elif data.get("resize") != _RESIZE_OF_OLD["resize"]:
            raise ValueError(f"resize is {data.get('resize')!r:.50}, which is not known")
        found = cls(**values)
        found.require_sane()
        return found


def features_of(exif: Exif, steps: Preprocessing) -> frozenset[Feature]:
    """Return what these steps need of a backend beyond version 1."""
    resize = steps.resize
    needed = {
        Feature.EXIF: exif is Exif.APPLY,
        Feature.CHANNELS: steps.channels is not Channels.RGB,
        Feature.SIZES: resize.mode is not ResizeMode.DIRECT or resize.size is not None,
        Feature.ANTIALIAS: resize.antialias,
        Feature.BICUBIC: resize.interpolation is Interpolation.BICUBIC,
        Feature.NEAREST: resize.interpolation is Interpolation.NEAREST,
        Feature.NORMALIZATION: steps.arithmetic is not Arithmetic.MULTIPLY
        or bool(steps.mean or steps.std),
    }
    return frozenset(feature for feature, is_needed in needed.items() if is_needed)


def _inserted(data: dict[str, Any], more: dict[str, Any], *, before: str) -> dict[str, Any]:
    """Return the items in their order, with `more` before that key."""
    names = list(data)
    at = names.index(before)
    return {name: data.get(name, more.get(name)) for name in (*names[:at], *more, *names[at:])}


def class_offset(classes: int, labels: Sequence[str], *, has_background: bool = False) -> int:
    """Return 0 if there is a label for each class, 1 if only the background class has none.

    It is 1 when `has_background` says so, and for the 1001 classes and 1000 labels of ImageNet.
    Raises ExportError for any other difference: guessing would shift every label by one.
    """
    count = len(labels)
    if count == classes and not has_background:
        return 0
    if 0 < count == classes - 1 and (has_background or (classes, count) == _IMAGENET):
        return 1
    raise ExportError(
        f"the model has {classes} classes and there are {count} labels"
        + (" beside the --background class" if has_background else ""),
        hint=_ways_to_fit(classes, labels, has_background),
    )


def _ways_to_fit(classes: int, labels: Sequence[str], has_background: bool) -> str:
    """Return a hint on how to fit that many labels."""
    if has_background:
        wanted = f"--background needs {classes - 1} labels: those of class 1 and up"
        return f"leave --background out; {wanted}" if len(labels) == classes else wanted
    all_of_them = f"give {classes} labels with --labels FILE, in the order of the model's outputs"
    if len(labels) == classes - 1:
        return (
            f"{all_of_them}; if class 0 is a background class that the file does not list, say so "
            f"with --background, or with a first line `{BACKGROUND}`"
        )
    if len(labels) == classes + 1 and labels[0].lower() == BACKGROUND:
        return f"{all_of_them}: without the first, {labels[0]!r}, if the model has no such class"
    return all_of_them
