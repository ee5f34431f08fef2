"""Write a Keras model as a SavedModel with one signature, under the names that the model has.

`model.export` does the same, but serves each model twice (`serve` and `serving_default`) and calls
the outputs of a list `output_0`, `output_1`, whatever their layers are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mlserve.tensors import DEFAULT_SIGNATURE

_ONE_OUTPUT = "output_0"
"""What TensorFlow calls an output without a name."""


def write_saved_model(model: Any, folder: Path) -> None:
    """Write the model with its weights, tables and assets, in inference mode.

    Inputs are called as in the dict that the model takes, else as its input layers; outputs as in
    the dict that it gives, else as the layers of several, else `output_0`. The batch size is open,
    as in `model.export`. Raises what Keras and TensorFlow raise.
    """
    structure = getattr(model, "input", None) if _has_structure(model) else model.inputs[0]
    specs = [
        tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=name)
        for name, tensor in zip(_input_names(model, structure), model.inputs, strict=True)
    ]

    def serve(*tensors: Any) -> Mapping[str, Any]:
        given = keras.tree.pack_sequence_as(structure, tensors)
        outputs = model(given, training=False)
        return dict(zip(_output_names(model, outputs), keras.tree.flatten(outputs), strict=True))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(DEFAULT_SIGNATURE, serve, input_signature=specs)
    archive.write_out(str(folder), verbose=False)


def _has_structure(model: Any) -> bool:
    return isinstance(model, keras.Model) and not isinstance(model, keras.Sequential)


def _input_names(model: Any, structure: Any) -> Sequence[str]:
    if isinstance(structure, Mapping):
        names = [str(name) for name in keras.tree.flatten({name: name for name in structure})]
        if len(names) == len(model.inputs):  # no dict or list inside
            return names
    return [tensor.name for tensor in model.inputs]


def _output_names(model: Any, outputs: Any) -> Sequence[str]:
    tensors = keras.tree.flatten(outputs)
    if isinstance(outputs, Mapping) and len(outputs) == len(tensors):
        return [str(name) for name in keras.tree.flatten({name: name for name in outputs})]
    if len(tensors) == 1:
        return [_ONE_OUTPUT]
    names = list(getattr(model, "output_names", ()))
    if len(set(names)) == len(tensors):
        return names
    return [f"output_{index}" for index in range(len(tensors))]
