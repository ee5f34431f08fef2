"""Open Keras models and find out their inputs and outputs."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras

from mlserve.artifact import json_of
from mlserve.classifiers import Network
from mlserve.errors import ExportError, reason_of
from mlserve.sources import ModelRequest
from mlserve_models.names import path_digest
from mlserve_models.sizes import image_size, size_fact
from mlserve_models.tf_graph import Forward, measured

_LARGEST_METADATA = 2**20


def load(path: Path) -> Any:
    """Load the whole Keras model in a `.keras` or `.h5` file.

    Raises ExportError when the file is absent, damaged, holds weights only, or needs code that is
    not in it.
    """
    try:
        with complete_weights():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged or foreign file makes Keras fail in many ways
        raise ExportError(
            f"{path} is not a Keras model that can be opened: {reason_of(error)}",
            hint=_way_to_open(path, str(error)),
        ) from error


@contextmanager
def complete_weights() -> Iterator[None]:
    """Make Keras raise inside the block where it would only warn of missing weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*freshly-initialized weights")
        yield


def network_of_file(path: Path, request: ModelRequest) -> Network:
    """Open the model in a file and find its size, scale and activation. Raises ExportError."""
    model = load(path)
    inputs = _only(getattr(model, "inputs", None), "inputs")
    outputs = _only(getattr(model, "outputs", None), "outputs", _output_names(model))
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
    return Network(
        forward,
        (height, width),
        contract,
        f"file {path}",
        path_digest(path),
        facts={"size": size_fact(tuple(inputs.shape))},
    )


def forward_of(model: Any, channels: int = 3) -> Forward:
    """Wrap a Keras model as a `tf.Module`, in inference mode."""
    variables = [variable.value for variable in model.variables]
    dtype = model.inputs[0].dtype

    def scores(images: Any) -> Any:
        (only,) = keras.tree.flatten(model(images, training=False))  # it may be in a dict
        return only

    return Forward(scores, variables, channels, dtype)


def _way_to_open(path: Path, text: str) -> str:
    """Return a hint for a file that Keras cannot open."""
    version = _keras_version(path)
    if version.startswith("2."):
        return (
            f"Keras {version} wrote the file. Make a SavedModel of it with tf_keras (pip install "
            f"tf_keras): tf_keras.models.load_model('{path.name}', compile=False).export('DIR'); "
            "then give --weights DIR"
        )
    as_savedmodel = "or write a SavedModel with model.export('DIR') and give --weights DIR"
    if "lambda" in text.lower():
        return f"save the model without Lambda layers and custom code, {as_savedmodel}"
    return f"save the whole model again with model.save('FILE.keras'), {as_savedmodel}"


def _keras_version(path: Path) -> str:
    """Return the version that wrote the file; empty if the file does not say."""
    try:
        if zipfile.is_zipfile(path):
            # Read only a part: a file may be compressed a thousand to one.
            with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as file:
                return str(json_of(file.read(_LARGEST_METADATA))["keras_version"])
        with h5py.File(path) as file:
            return str(file.attrs["keras_version"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return ""


def _output_names(model: Any) -> Sequence[str]:
    """Return the keys of a dict of outputs, else the names of the output layers; may be empty."""
    outputs = getattr(model, "output", None)
    return (
        list(outputs) if isinstance(outputs, dict) else getattr(model, "output_names", None) or ()
    )


def _only(tensors: Any, kind: str, names: Sequence[str] = ()) -> Any:
    if not tensors:
        raise ExportError(
            f"the Keras model does not say what its {kind} are (a subclass of Model)",
            hint="export it as a SavedModel with model.export(DIR) and give --weights DIR",
        )
    if len(tensors) != 1:
        raise ExportError(
            f"the Keras model has {len(tensors)} {kind}: "
            + ", ".join(names or [tensor.name for tensor in tensors]),
            hint="save a model that takes one image and gives one row of scores: "
            "keras.Model(model.input, SCORES).save('FILE.keras')",
        )
    return tensors[0]
