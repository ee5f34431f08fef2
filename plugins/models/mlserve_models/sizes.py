"""The input size of a user's own model, and whether it takes images at all."""

from __future__ import annotations

from collections.abc import Sequence

from mlserve.errors import ExportError
from mlserve.images import RGB
from mlserve.sources import Fact, Facts, How, ModelRequest

_RANK = 4
"""Batch, height, width, channels."""


def image_problem(shape: Sequence[int | None] | None) -> ExportError | None:
    """Return why an input of that shape (None: unknown) is not a batch of images, channels last.

    None if it is one.
    """
    if shape is None or len(shape) != _RANK:
        return ExportError(
            f"the model's input has the shape {_text(shape)}, not [N,height,width,3]",
            hint="export a model that takes a batch of images, channels last",
        )
    batch, _, _, channels = shape
    if batch is not None:
        return ExportError(
            f"the model takes batches of {batch} only (input {_text(shape)})",
            hint="save the model with an open batch size (None)",
        )
    if channels not in (1, RGB):
        return ExportError(
            f"the model's input {_text(shape)} has {channels or 'no fixed number of'} channels "
            "in its last dimension, not 3 (or 1, grey)",
            hint="export a model that takes images with the channels last",
        )
    return None


def scores_problem(shape: Sequence[int | None] | None) -> ExportError | None:
    """Return why an output of that shape is not a row of scores for each image.

    None if it is, or if the rank is unknown (a shape of None).
    """
    if shape is None or len(shape) == 2:  # noqa: PLR2004 - batch, classes
        return None
    return ExportError(
        f"the model's output has the shape {_text(shape)}, not [N,classes]",
        hint="export a classifier: one row of scores for each image",
    )


def image_size(shape: Sequence[int | None] | None, request: ModelRequest) -> tuple[int, int, int]:
    """Return height, width and channels of a model whose input has that shape (None: unknown).

    Raises ExportError when it has an `image_problem`, when no size is known, or when `--input-size`
    contradicts the model.
    """
    require_channels_last(request)
    problem = image_problem(shape)
    if problem is not None:
        raise problem
    assert shape is not None  # an unknown one is a problem
    _, height, width, channels = shape
    wanted = request.input_size
    tall, wide = height or request.open_size[0], width or request.open_size[1]
    if tall is None or wide is None:
        raise ExportError(
            f"the model leaves its input size open ({_text(shape)})",
            hint="say which it was trained with: --input-size N",
        )
    if wanted is not None and {height, width} - {None, wanted}:
        raise ExportError(
            f"--input-size {wanted} does not fit the model's input {_text(shape)}",
            hint="leave --input-size out: the model knows its size",
        )
    return tall, wide, channels or RGB


def depth_of(channels: int, request: ModelRequest) -> int:
    """Return how many channels the pipeline makes for a model that takes so many.

    Version 1 knows only RGB, and a model of one channel has its own step that makes it grey.
    """
    return channels if request.pixels.given else RGB


def size_fact(shape: Sequence[int | None] | None) -> Fact:
    """Return how the size is known: the user gave what the model leaves open."""
    is_open = shape is None or None in shape[1:3]
    return Fact(How.GIVEN) if is_open else Fact(How.FOUND, "its input has that size")


def known_size(request: ModelRequest) -> Facts:
    """Return the fact about the size of a well-known model."""
    return {"size": Fact(How.FOUND, f"{request.model} has that size")}


def require_channels_last(request: ModelRequest) -> None:
    """Raise ExportError when the user asks for channels first, which only ONNX files have."""
    if request.layout == "nchw":
        raise ExportError(
            "--layout nchw is for ONNX files; models of TensorFlow have the channels last",
            hint="leave --layout out, or export a model that takes [N,height,width,3]",
        )


def require_size(request: ModelRequest, size: int) -> None:
    """Raise ExportError when the user asks for another size or layout than the model's."""
    require_channels_last(request)
    if request.input_size not in (None, size):
        raise ExportError(
            f"{request.model} takes images of {size}x{size}, not {request.input_size}",
            hint="leave --input-size out",
        )


def _text(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "[...]"
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"
