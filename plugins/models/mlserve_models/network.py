"""The input of a user's own model: its size, and whether it takes images at all."""

from __future__ import annotations

from collections.abc import Sequence

from mlserve.errors import ExportError
from mlserve.sources import ModelRequest

RGB = 3


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
