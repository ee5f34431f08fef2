"""Convert a TensorFlow model: a classifier's function, or a signature of a SavedModel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf

from mlserve.differences import Arrays
from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.sources import Classifier, Model, TensorModel
from mlserve.tensors import DEFAULT_SIGNATURE, PREDICT, DType, Signature, TensorSpec
from mlserve_openvino.original import IMAGES, SCORES, Original, converted, scores_spec


def of_tensorflow(model: Model) -> Original:
    """Convert `serving_default` (or the only signature) of a SavedModel, or a classifier.

    Raises ExportError.
    """
    if isinstance(model, Classifier):
        signature, call = _classifier(model)
    else:
        signature, call = _saved_model(model)
    specs = [_tensor_spec(spec) for spec in signature.inputs]
    function = tf.function(call, input_signature=specs, autograph=False)
    found = converted(model, function, signature.inputs, signature.outputs)
    return Original("TensorFlow", found, lambda inputs: _run(signature, function, inputs))


def _classifier(model: Classifier) -> tuple[Signature, Callable[..., Any]]:
    shape = (None, *model.pipeline.size, model.pipeline.preprocessing.depth)
    images = TensorSpec(IMAGES, DType.FLOAT32, shape)
    scores = scores_spec(model)

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.cast(model.forward(images), tf.float32)
        return {SCORES: tf.ensure_shape(outputs, scores.shape)}

    return Signature(DEFAULT_SIGNATURE, (images,), (scores,)), call


def _saved_model(model: TensorModel) -> tuple[Signature, Callable[..., Any]]:
    takes_tensors = [signature for signature in model.signatures if signature.method == PREDICT]
    by_name = {signature.name: signature for signature in takes_tensors}
    only = takes_tensors[0] if len(takes_tensors) == 1 else None
    chosen = by_name.get(DEFAULT_SIGNATURE, only)
    if chosen is None:
        raise ExportError(
            f"an OpenVINO IR has one signature, and none of those of {model.name} is "
            f"{DEFAULT_SIGNATURE} and takes tensors "
            f"({', '.join(signature.name for signature in model.signatures)})",
            hint="export it for --backend tfserving",
        )
    try:
        loaded = tf.saved_model.load(str(model.content))
    except Exception as error:  # TensorFlow has no common error for SavedModels it cannot load
        raise ExportError(
            f"TensorFlow cannot load {model.name}: {reason_of(error)}",
            hint="export it for --backend tfserving",
        ) from error
    names = [spec.name for spec in chosen.inputs]

    def call(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        served = loaded.signatures[chosen.name]
        outputs: dict[str, tf.Tensor] = served(**dict(zip(names, inputs, strict=True)))
        return outputs

    return replace(chosen, optional=frozenset()), call  # an IR has no defaults for inputs


def _tensor_spec(spec: TensorSpec) -> Any:
    return tf.TensorSpec(spec.shape, tf.as_dtype(spec.dtype.tf_number), name=spec.name)


def _run(signature: Signature, function: Any, inputs: Arrays) -> Arrays:
    tensors = [
        tf.constant(inputs[spec.name], tf.as_dtype(spec.dtype.tf_number))
        for spec in signature.inputs
    ]
    try:
        return {name: tensor.numpy() for name, tensor in function(*tensors).items()}
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise InvalidInput(reason_of(error)) from error
