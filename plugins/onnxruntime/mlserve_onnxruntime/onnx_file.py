"""Reads an image classifier's interface out of a user's own ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.artifact import digest_of
from mlserve.backend import LoadOptions
from mlserve.errors import ExportError, MlserveError, reason_of
from mlserve.network import UNIT, Network
from mlserve.probe import probe
from mlserve.sources import ModelRequest
from mlserve_onnxruntime.layout import ImageInput, described
from mlserve_onnxruntime.sessions import Sessions

_ONE_IMAGE_IN = "export a classifier that takes one float32 image batch and gives one row of scores"


def network_of_file(path: Path, request: ModelRequest) -> Network:
    """The classifier in that file, its output probed. Raises ExportError when it is none."""
    sessions = _opened(path)
    image = _image_input(path, sessions)
    height, width = _size(path, image, request)
    output = _only(path, "outputs", sessions.outputs)

    def call(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        size = image.batch or len(images)
        arranged = image.arranged(images)
        return np.concatenate(
            [
                sessions.run([output.name], {image.name: arranged[at : at + size]}, None)[0]
                for at in range(0, len(arranged), size)
            ]
        )

    try:
        units, activation = probe(call, height, width)
    except ExportError:
        raise
    except (MlserveError, ValueError) as error:
        raise ExportError(
            f"the model in {path} does not run on images of {width}x{height}: {reason_of(error)}",
            hint="check --input-size",
        ) from error
    return Network(
        forward=path,
        height=height,
        width=width,
        units=units,
        activation=activation,
        scale=UNIT,
        source=f"file {path}",
        digest=_digest(path),
        framework="onnx",
    )


def _opened(path: Path) -> Sessions:
    try:
        return Sessions(path, LoadOptions(provider="cpu"))
    except MlserveError as error:
        raise ExportError(error.message, hint="give a file that ONNX Runtime can load") from error


def _image_input(path: Path, sessions: Sessions) -> ImageInput:
    tensor = _only(path, "inputs", sessions.inputs)
    try:
        image = ImageInput.of(tensor)
    except ValueError as error:
        raise ExportError(
            f"the model in {path} takes {described(tensor)}, not float[N,height,width,3] or "
            "float[N,3,height,width]",
            hint=_ONE_IMAGE_IN,
        ) from error
    if image.batch not in (None, 1):
        raise ExportError(
            f"the model in {path} takes batches of {image.batch} only ({described(tensor)})",
            hint="save the model with an open batch size, or with 1",
        )
    return image


def _size(path: Path, image: ImageInput, request: ModelRequest) -> tuple[int, int]:
    wanted = request.input_size
    height, width = image.height or wanted, image.width or wanted
    if height is None or width is None:
        raise ExportError(
            f"the model in {path} leaves its input size open",
            hint="say which it was trained with: --input-size N",
        )
    if wanted is not None and {height, width} != {wanted}:
        raise ExportError(
            f"--input-size {wanted} does not fit the model in {path}, which takes {width}x{height}",
            hint="leave --input-size out: the model knows its size",
        )
    return height, width


def _only(path: Path, kind: str, tensors: Sequence[Any]) -> Any:
    if len(tensors) != 1:
        found = ", ".join(described(tensor) for tensor in tensors) or "none"
        raise ExportError(
            f"the model in {path} has {len(tensors)} {kind}, not one: {found}", hint=_ONE_IMAGE_IN
        )
    return tensors[0]


def _digest(path: Path) -> str:
    """`sha256:<hex>` of the model with the weights that lie beside its file."""
    import onnx

    return digest_of(onnx.load(str(path)).SerializeToString(deterministic=True))
