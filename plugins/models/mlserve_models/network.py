"""A model in memory with the facts of its interface, and how it becomes a Classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import ExportError
from mlserve.pipeline import Activation, ImagePipeline, class_offset
from mlserve.sources import Classifier, ModelRequest
from mlserve_models.labels import read_labels

RGB = 3
_BINARY_LABELS = 2

Scale = tuple[float, float]
"""The values that pixel 0 and pixel 255 become."""

UNIT: Scale = (0.0, 1.0)
RAW: Scale = (0.0, 255.0)
SYMMETRIC: Scale = (-1.0, 1.0)


@dataclass(frozen=True)
class Network:
    """A classifier in memory: `forward` maps float32[N, height, width, 3] to float32[N, units].

    `scale` is what the network wants unless the user knows better.
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
    )
    return Classifier(
        name=request.model,
        forward=network.forward,
        pipeline=pipeline,
        labels=labels,
        source=network.source,
        weights_digest=network.digest,
        has_random_weights=network.has_random_weights,
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


def image_size(shape: Sequence[int | None] | None, request: ModelRequest) -> tuple[int, int, int]:
    """Height, width and channels of a model whose input has that shape (None: unknown).

    Raises ExportError when the input is no batch of images with the channels last, when no size
    is known, or when `--input-size` says another.
    """
    if shape is None or len(shape) != 4:  # noqa: PLR2004 - batch, height, width, channels
        raise ExportError(
            f"the model's input has the shape {_text(shape)}, not [N,height,width,3]",
            hint="export a model that takes a batch of images, channels last",
        )
    batch, height, width, channels = shape
    if batch is not None:
        raise ExportError(
            f"the model takes batches of {batch} only (input {_text(shape)})",
            hint="save the model with an open batch size (None)",
        )
    if channels not in (1, RGB):
        raise ExportError(
            f"the model's input {_text(shape)} has {channels or 'no fixed number of'} channels "
            "in its last dimension, not 3 (or 1, grey)",
            hint="export a model that takes images with the channels last",
        )
    wanted = request.input_size
    if wanted is None and (height is None or width is None):
        raise ExportError(
            f"the model leaves its input size open ({_text(shape)})",
            hint="say which it was trained with: --input-size N",
        )
    if wanted is not None and {height, width} - {None, wanted}:
        raise ExportError(
            f"--input-size {wanted} does not fit the model's input {_text(shape)}",
            hint="leave --input-size out: the model knows its size",
        )
    return height or wanted or 0, width or wanted or 0, channels


def require_size(request: ModelRequest, size: int) -> None:
    """Raises ExportError when the user asks a model of a fixed size for another one."""
    if request.input_size not in (None, size):
        raise ExportError(
            f"{request.model} takes images of {size}x{size}, not {request.input_size}",
            hint="leave --input-size out",
        )


def _text(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "[...]"
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"
