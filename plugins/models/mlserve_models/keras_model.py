"""Open Keras models: as image classifiers, or as models of tensors."""

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
from mlserve.classifiers import Network, classifier
from mlserve.digests import path_digest
from mlserve.errors import ExportError, reason_of
from mlserve.kinds import is_for_tensors
from mlserve.sources import Model, ModelRequest, TensorModel
from mlserve_models import reference
from mlserve_models.keras_export import write_saved_model
from mlserve_models.sizes import (
    depth_of,
    image_problem,
    image_size,
    scores_problem,
    size_fact,
)
from mlserve_models.temporary import temporary_folder
from mlserve_models.tensor_model import tensor_model
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


def open_file(path: Path, request: ModelRequest) -> Model:
    """Open the model in a file: as a classifier if it can be one. Raises ExportError."""
    model = load(path)
    inputs, outputs = _tensors(model, "inputs"), _tensors(model, "outputs")
    problem = _problem(path, model, inputs, outputs)
    if is_for_tensors(request, problem):
        return _as_tensors(path, model, request, problem)
    return classifier(request, _network(path, model, request))


def _problem(path: Path, model: Any, inputs: Any, outputs: Any) -> ExportError | None:
    """Return why the model is not an image classifier; None if it can be one."""
    return (
        _several(inputs, "inputs")
        or _several(outputs, "outputs", _output_names(model))
        or _not_floats(path, inputs[0])
        or image_problem(tuple(inputs[0].shape))
        or scores_problem(tuple(outputs[0].shape))
    )


def _not_floats(path: Path, pixels: Any) -> ExportError | None:
    if "float" in pixels.dtype:
        return None
    return ExportError(
        f"the model in {path} takes {pixels.dtype}, not float32[N,height,width,3]",
        hint="save the model with an input of float32",
    )


def _network(path: Path, model: Any, request: ModelRequest) -> Network:
    """Find the model's size, scale and activation. Raises ExportError."""
    shape = tuple(model.inputs[0].shape)
    height, width, channels = image_size(shape, request)
    forward = forward_of(model, channels)
    depth = depth_of(channels, request)
    contract = measured(f"the model in {path}", forward, (height, width), request, depth=depth)
    return Network(
        forward,
        (height, width),
        contract,
        f"file {path}",
        path_digest(path),
        facts={"size": size_fact(shape)},
        depth=depth,
        reference=reference.of_forward(forward),
    )


def _as_tensors(
    path: Path, model: Any, request: ModelRequest, problem: ExportError | None
) -> TensorModel:
    """Write the model as a SavedModel, into a folder that stays until the process ends."""
    folder = temporary_folder("mlserve-keras-")
    try:
        write_saved_model(model, folder)
    except Exception as error:  # Keras and TensorFlow raise whatever its layers raise
        raise ExportError(
            f"Keras cannot write the model in {path} as a SavedModel: {reason_of(error)}",
            hint="write one with model.export('DIR') and give --weights DIR",
        ) from error
    return tensor_model(folder, request, f"file {path}", path_digest(path), problem)


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


def _tensors(model: Any, kind: str) -> Sequence[Any]:
    tensors = getattr(model, kind, None)
    if not tensors:
        raise ExportError(
            f"the Keras model does not say what its {kind} are (a subclass of Model)",
            hint="export it as a SavedModel with model.export(DIR) and give --weights DIR",
        )
    return list(tensors)


def _several(tensors: Sequence[Any], kind: str, names: Sequence[str] = ()) -> ExportError | None:
    if len(tensors) == 1:
        return None
    return ExportError(
        f"the Keras model has {len(tensors)} {kind}: "
        + ", ".join(names or [tensor.name for tensor in tensors]),
        hint="save a model that takes one image and gives one row of scores: "
        "keras.Model(model.input, SCORES).save('FILE.keras')",
    )
