"""TensorFlow's own answers in fp32, which exports are held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlserve.errors import InvalidInput, reason_of
from mlserve.sources import Reference

Arrays = Mapping[str, Any]
FRAMEWORK = f"TensorFlow {tf.__version__}"


def of_forward(forward: Callable[[Any], Any]) -> Reference:
    """Return the reference of a classifier, the `tf.Module` that `Classifier.forward` is."""
    call = tf.function(lambda images: tf.cast(forward(images), tf.float32), autograph=False)

    def run(_: str, inputs: Arrays) -> Arrays:
        return {"outputs": call(tf.constant(inputs["images"])).numpy()}

    return Reference(FRAMEWORK, run)


def of_folder(folder: Path) -> Reference:
    """Return the reference of a SavedModel, which is loaded when it is first asked.

    It refuses all inputs if TensorFlow cannot load it so: some models of TensorFlow 1 can only be
    run in a session.
    """

    @cache
    def loaded() -> Any:
        try:
            return tf.saved_model.load(str(folder))
        except Exception as error:  # noqa: BLE001 - TensorFlow has no common error for it
            return InvalidInput(f"TensorFlow cannot load it as functions: {reason_of(error)}")

    def run(signature: str, inputs: Arrays) -> Arrays:
        model = loaded()
        if isinstance(model, InvalidInput):
            raise model
        function = model.signatures[signature]
        _, specs = function.structured_input_signature
        try:
            tensors = {name: tf.constant(inputs[name], specs[name].dtype) for name in inputs}
            return {name: tensor.numpy() for name, tensor in function(**tensors).items()}
        except (tf.errors.OpError, TypeError, ValueError, KeyError) as error:
            raise InvalidInput(reason_of(error)) from error

    return Reference(FRAMEWORK, run)
