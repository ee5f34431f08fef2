"""Opens Keras models and finds out what they take and give."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras  # noqa: TID253

from mlserve.errors import ExportError
from mlserve.network import Network
from mlserve.sources import ModelRequest
from mlserve_models.digests import path_digest
from mlserve_models.forward import Forward
from mlserve_models.network import image_size, size_fact
from mlserve_models.tf_graph import measured


def load(path: Path) -> Any:
    """The whole Keras model in a `.keras` or `.h5` file.

    Raises ExportError when the file is absent, damaged, holds weights only, or needs code that is
    not in it.
    """
    try:
        with complete_weights():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged or foreign file makes Keras fail in many ways
        raise ExportError(
            f"{path} is no Keras model that can be opened: {first_line(error)}",
            hint="save the whole model with model.save('FILE.keras'), without Lambda layers or "
            "code of your own",
        ) from error


@contextmanager
def complete_weights() -> Iterator[None]:
    """A `with` block in which Keras raises where it would warn of weights that it did not find."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*freshly-initialized weights")
        yield


def network_of_file(path: Path, request: ModelRequest) -> Network:
    """The model in a file with its input size, scale and activation. Raises ExportError."""
    model = load(path)
    inputs = _only(getattr(model, "inputs", None), "inputs")
    outputs = _only(getattr(model, "outputs", None), "outputs")
    height, width, channels = image_size(tuple(inputs.shape), request)
    if "float" not in inputs.dtype:
        raise ExportError(
            f"the model in {path} takes {inputs.dtype}, not float32[N,height,width,3]",
            hint="save the model with an input of float32",
        )
    if len(outputs.shape) != 2 or outputs.shape[1] is None:  # noqa: PLR2004 - batch, classes
        raise ExportError(
            f"the model in {path} has the output shape {list(outputs.shape)}, not [N,classes]",
            hint="export a classifier: one row of scores for each image",
        )
    forward = forward_of(model, channels)
    contract = measured(f"the model in {path}", forward, (height, width), request)
    return Network.of(
        forward,
        (height, width),
        contract,
        f"file {path}",
        path_digest(path),
        facts={"size": size_fact(tuple(inputs.shape))},
    )


def forward_of(model: Any, channels: int = 3) -> Forward:
    """A Keras model as a `tf.Module`, in inference mode."""
    variables = [variable.value for variable in model.variables]
    dtype = model.inputs[0].dtype
    return Forward(lambda images: model(images, training=False), variables, channels, dtype)


def first_line(error: Exception) -> str:
    """The type of an error and the first line of its text, for a message of one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _only(tensors: Any, kind: str) -> Any:
    if not tensors:
        raise ExportError(
            f"the Keras model does not say what its {kind} are (a subclass of Model)",
            hint="export it as a SavedModel with model.export(DIR) and give --weights DIR",
        )
    if len(tensors) != 1:
        raise ExportError(
            f"the Keras model has {len(tensors)} {kind}: "
            + ", ".join(tensor.name for tensor in tensors),
            hint="export a model that takes one image and gives one row of scores",
        )
    return tensors[0]
