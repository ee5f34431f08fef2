"""A model in memory with the facts of its interface, and how it becomes a Classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve.errors import ExportError
from mlserve.pipeline import Activation, ImagePipeline, class_offset
from mlserve.sources import Classifier, ModelRequest

_BINARY_LABELS = 2

Scale = tuple[float, float]
"""The values that pixel 0 and pixel 255 become."""

UNIT: Scale = (0.0, 1.0)
RAW: Scale = (0.0, 255.0)
SYMMETRIC: Scale = (-1.0, 1.0)


@dataclass(frozen=True)
class Network:
    """A classifier in memory: `forward` maps float32[N, height, width, 3] to float32[N, units].

    `framework` says what `forward` is, as in Classifier. `scale` is what the network wants unless
    the user knows better.
    """

    forward: Any
    height: int
    width: int
    units: int
    activation: Activation
    scale: Scale
    source: str
    digest: str
    has_random_weights: bool = False
    framework: str = "tensorflow"


def classifier(
    request: ModelRequest, network: Network, own_labels: Sequence[str] | None = None
) -> Classifier:
    """The network with its labels and pipeline, ready for a backend.

    `own_labels` are those that the model is known to have. Raises ExportError when there are no
    labels or their number does not fit.
    """
    scored = 2 if network.activation.is_binary else network.units
    labels = _labels(request, network, scored, own_labels)
    low, high = request.scale or network.scale
    pipeline = ImagePipeline(
        height=network.height,
        width=network.width,
        scale=(high - low) / 255,
        offset=low,
        activation=network.activation,
        classes=network.units,
        class_offset=class_offset(scored, len(labels)),
        top_k=min(request.top_k, scored),
        exif=request.exif,
    )
    return Classifier(
        name=request.model,
        forward=network.forward,
        pipeline=pipeline,
        labels=labels,
        source=network.source,
        weights_digest=network.digest,
        has_random_weights=network.has_random_weights,
        framework=network.framework,
    )


def _labels(
    request: ModelRequest, network: Network, scored: int, own_labels: Sequence[str] | None
) -> tuple[str, ...]:
    if request.labels is None and own_labels is None:
        raise ExportError(
            f"the model {request.model!r} has {scored} classes and no labels are given",
            hint=f"name them with --labels FILE: {scored} lines, in the order of the model's "
            "outputs",
        )
    labels = read_labels(request.labels) if request.labels else tuple(own_labels or ())
    if network.activation.is_binary and len(labels) != _BINARY_LABELS:
        raise ExportError(
            f"the model has one output for two classes and there are {len(labels)} labels",
            hint="give two labels: first the class of output 0, then the class of output 1",
        )
    return labels


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels in a UTF-8 file, one a line; blank lines at the end do not count.

    Raises ExportError when the file cannot be read, holds none, or has a blank line between two.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"the labels in {path} cannot be read: {error}", hint="give a UTF-8 text file"
        ) from error
    labels = tuple(line.strip() for line in lines)
    if not labels:
        raise ExportError(f"{path} holds no labels", hint="write one label a line")
    if "" in labels:
        raise ExportError(
            f"line {labels.index('') + 1} of {path} is blank",
            hint="write one label a line, in the order of the model's outputs",
        )
    return labels
