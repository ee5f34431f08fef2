"""Keras applications in place of a hub module: random weights, or weights from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np

from mlserve.classifiers import Network
from mlserve.contract import Evidence, settle
from mlserve.digests import path_digest
from mlserve.errors import ExportError, reason_of
from mlserve.pipeline import Activation
from mlserve.sources import ModelRequest
from mlserve_models import keras_model, reference
from mlserve_models.names import HubModel, random_digest
from mlserve_models.sizes import known_size
from mlserve_models.tf_graph import measured

Array = np.ndarray[Any, Any]


def random_network(request: ModelRequest, model: HubModel) -> Network:
    """Build the architecture with weights drawn from the seed and the hub module's interface."""
    network = _application(model, None, model.units, None)
    network.set_weights(_draw(network, request.seed))
    logits = Evidence(Activation.SOFTMAX, "the hub's module gives logits")
    forward = keras_model.forward_of(network)
    return Network(
        forward,
        (model.size, model.size),
        settle(request, model.units, logits, model.known_scale),
        f"random weights, seed {request.seed}",
        random_digest(request.model, request.seed),
        has_random_weights=True,
        facts=known_size(request),
        reference=reference.of_forward(forward),
    )


def network_of_file(path: Path, request: ModelRequest, model: HubModel) -> Network:
    """Build the Keras application with the weights in a `.keras`, `.h5` or `.weights.h5` file.

    Raises ExportError when the file holds anything else.
    """
    network = keras_model.load(path) if _is_whole_model(path) else _with_weights(path, model)
    shape = (*network.inputs[0].shape, *network.outputs[0].shape)
    if shape != (None, model.size, model.size, 3, None, model.keras_classes):
        raise ExportError(
            f"the model in {path} maps {network.inputs[0].shape} to {network.outputs[0].shape}; "
            f"{request.model} maps {model.size}x{model.size} to {model.keras_classes} classes",
            hint="give a model of your own its own name: --model NAME --labels FILE",
        )
    forward, size = keras_model.forward_of(network), (model.size, model.size)
    known = model.known_keras_scale
    return Network(
        forward,
        size,
        measured(f"the model in {path}", forward, size, request, known),
        f"file {path}",
        path_digest(path),
        facts=known_size(request),
        reference=reference.of_forward(forward),
    )


def _application(model: HubModel, weights: str | None, classes: int, activation: Any) -> Any:
    build = getattr(keras.applications, model.keras_name)
    return build(weights=weights, classes=classes, classifier_activation=activation)


def _draw(network: Any, seed: int) -> list[Array]:
    """Draw kernels that preserve the signal's variance; biases, means, shifts 0, variances 1."""
    rng = np.random.default_rng(seed)
    values = {"kernel": None, "moving_variance": 1.0, "gamma": 1.0}
    drawn = []
    for weight in network.weights:
        value = values.get(weight.name, 0.0)
        if value is None:
            deviation = np.sqrt(2 / np.prod(weight.shape[:-1]))
            drawn.append(rng.normal(0, deviation, weight.shape).astype(np.float32))
        else:
            drawn.append(np.full(weight.shape, value, np.float32))
    return drawn


def _is_whole_model(path: Path) -> bool:
    if path.suffix == ".keras":
        return True
    try:
        with h5py.File(path) as file:
            return "model_config" in file.attrs
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read as HDF5: {reason_of(error)}",
            hint="give a .h5 or .keras file that Keras wrote",
        ) from error


def _with_weights(path: Path, model: HubModel) -> Any:
    try:
        with keras_model.complete_weights():
            return _application(model, str(path), model.keras_classes, "softmax")
    except Exception as error:  # weights of another architecture make Keras fail in many ways
        raise ExportError(
            f"the weights in {path} are not those of keras.applications.{model.keras_name} "
            f"with {model.keras_classes} classes: {reason_of(error)}",
            hint="write them with save_weights('FILE.weights.h5') on that very model",
        ) from error
