"""What the manifests of two exports say differently, by the stage of the pipeline it concerns.

A comparison names a cause only from here. What the manifests do not say is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mlserve.artifact import Manifest
from mlserve.pipeline import Exif, ImagePipeline
from mlserve.preprocessing import Preprocessing, ResizeMode

DECODED, RESIZED, SCORES, LABELS = "decoded", "resized", "scores", "labels"
"""What is said something about: a stage, or the names of the classes."""
_DIGITS = 12
"""Characters of a digest that are shown."""
_NEAR = 1e-6
_WHITE = 255


class Described(NamedTuple):
    """A target's name, and its manifest."""

    name: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class _Property:
    """One thing that a manifest says of a stage: its `words` follow a name and the `verb`.

    They are empty where there is nothing to say.
    """

    about: str
    verb: str
    words: Callable[[Manifest], str]


def said_differently(reference: Described, other: Described, about: str) -> list[str]:
    """Return what the two say differently of a stage: `A scales to 0..1, B to -1..1`."""
    found = []
    for each in _PROPERTIES:
        one, two = each.words(reference.manifest), each.words(other.manifest)
        if each.about != about or not one or not two or one == two:
            continue
        if each.verb != _SCALES or not _is_same_scale(reference.manifest, other.manifest):
            found.append(f"{reference.name} {each.verb}{one}, {other.name} {two}")
    return found


def _is_same_scale(one: Manifest, other: Manifest) -> bool:
    """Return whether two ways to scale give the same: 0..1 less 0.5, divided by 0.5, is -1..1."""
    if one.pipeline is None or other.pipeline is None:
        return False
    ours, theirs = _ranges(one.pipeline), _ranges(other.pipeline)
    if len(ours) != len(theirs):
        return False
    pairs = zip(ours, theirs, strict=True)
    return all(abs(a - b) <= _NEAR * max(1.0, abs(a)) for a, b in pairs)


def _ranges(pipeline: ImagePipeline) -> list[float]:
    """Return what pixel 0 and pixel 255 become in each channel."""
    steps = pipeline.preprocessing
    means, deviations = steps.mean or (0.0,) * steps.depth, steps.std or (1.0,) * steps.depth
    return [
        (pixel * pipeline.scale + pipeline.offset - mean) / deviation
        for mean, deviation in zip(means, deviations, strict=True)
        for pixel in (0, _WHITE)
    ]


def _pipeline(words: Callable[[ImagePipeline], str]) -> Callable[[Manifest], str]:
    """Return the words on a manifest for those on its pipeline."""
    return lambda manifest: "" if manifest.pipeline is None else words(manifest.pipeline)


def _steps(words: Callable[[Preprocessing], str]) -> Callable[[Manifest], str]:
    return _pipeline(lambda pipeline: words(pipeline.preprocessing))


def _exif(pipeline: ImagePipeline) -> str:
    return "applies the EXIF orientation" if pipeline.exif is Exif.APPLY else "ignores EXIF"


def _scale(pipeline: ImagePipeline) -> str:
    steps = pipeline.preprocessing
    high = _WHITE * pipeline.scale + pipeline.offset
    text = f"to {_number(pipeline.offset)}..{_number(high)}"
    if steps.mean:
        text += f" less the mean {_numbers(steps.mean)}"
    return text + (f", divided by {_numbers(steps.std)}" if steps.std else "")


def _number(value: float) -> str:
    """Return a number without what rounding has left of it: 255 times 2/255 less 1 is 1."""
    return f"{round(value, 9):g}"


def _numbers(values: tuple[float, ...]) -> str:
    return _number(values[0]) if len(set(values)) == 1 else "/".join(map(_number, values))


def _resize(pipeline: ImagePipeline) -> str:
    resize = pipeline.preprocessing.resize
    height, width = resize.size or pipeline.size
    match resize.mode:
        case ResizeMode.DIRECT:
            return f"straight to {width}x{height}"
        case ResizeMode.SHORTEST_EDGE:
            return f"the shorter side to {min(height, width)}"
        case ResizeMode.LETTERBOX:
            fill = "/".join(map(str, dict.fromkeys(resize.fill))) or "0"
            return f"into {width}x{height}, the rest filled with {fill}"


def _interpolation(steps: Preprocessing) -> str:
    resize = steps.resize
    way = "with antialiasing" if resize.antialias else "without antialiasing"
    return f"{resize.interpolation} {way}" if resize.interpolation.has_antialias else "nearest"


def _digest(digest: str | None) -> str:
    """Return the beginning of a digest, which is enough to tell two apart."""
    kind, colon, text = (digest or "").partition(":")
    return f"{kind}{colon}{text[:_DIGITS]}"


_SCALES = "scales "
_PROPERTIES = (
    _Property(DECODED, "", _pipeline(_exif)),
    _Property(DECODED, "decodes JPEG by ", _pipeline(lambda found: found.jpeg_dct)),
    _Property(RESIZED, _SCALES, _pipeline(_scale)),
    _Property(RESIZED, "resizes ", _pipeline(_resize)),
    _Property(RESIZED, "interpolates ", _steps(_interpolation)),
    _Property(RESIZED, "takes ", _pipeline(lambda found: f"{found.width}x{found.height} pixels")),
    _Property(RESIZED, "takes the colours ", _steps(lambda steps: str(steps.channels))),
    _Property(RESIZED, "takes channels: ", _steps(lambda steps: str(steps.depth))),
    _Property(RESIZED, "cuts the centre by the rule ", _steps(lambda steps: steps.crop_offset)),
    _Property(RESIZED, "computes pixels by the rule ", _steps(lambda steps: steps.arithmetic)),
    _Property(SCORES, "has the weights ", lambda found: _digest(found.weights_digest)),
    _Property(SCORES, "computes in ", lambda found: found.computes_in),
    _Property(SCORES, "makes scores by ", _pipeline(lambda found: found.activation.value)),
    _Property(SCORES, "has classes: ", _pipeline(lambda found: str(found.scored_classes))),
    _Property(LABELS, "has the labels ", lambda found: _digest(found.labels_digest)),
    _Property(
        LABELS,
        "has a first class without a label: ",
        _pipeline(lambda found: "yes" if found.class_offset else "no"),
    ),
)
