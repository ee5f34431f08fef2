"""The float-tensor part of a TensorFlow classifier as an ONNX model, through tf2onnx."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own affair: what it uses of numpy and of protobuf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from mlserve.errors import ExportError, reason_of
from mlserve.pipeline import Activation
from mlserve.sources import Classifier

OPSET = 18
INPUT = "images"
_LOGITS = (Activation.SOFTMAX, Activation.SIGMOID)


def converted(model: Classifier) -> tuple[Any, Any]:
    """The ONNX model (a ModelProto), and the TensorFlow function that it was made from.

    It takes `images` float32[N, height, width, 3] and gives `logits` or `scores` float32[N, units].
    Raises ExportError when an operation has no counterpart in ONNX.
    """
    function = _function(model)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # the error says it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = _frozen(function)
            proto, _ = tf2onnx.convert.from_function(
                frozen, input_signature=frozen.input_signature, opset=OPSET
            )
    except Exception as error:  # tf2onnx raises whatever its rewriters and TensorFlow raise
        raise ExportError(
            f"the model {model.name} cannot be converted to ONNX: {reason_of(error)}",
            hint="export it for --backend tfserving, or give an ONNX file of your own: "
            "--weights FILE.onnx",
        ) from error
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    return proto, lambda images: next(iter(function(tf.constant(images)).values())).numpy()


def _function(model: Classifier) -> Any:
    pipeline = model.pipeline
    output = "logits" if pipeline.activation in _LOGITS else "scores"
    units = 1 if pipeline.activation.is_binary else pipeline.classes
    images = tf.TensorSpec([None, pipeline.height, pipeline.width, 3], tf.float32, name=INPUT)

    def forward(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.cast(model.forward(images), tf.float32)
        return {output: tf.ensure_shape(outputs, [None, units])}

    return tf.function(forward, input_signature=[images], autograph=False)


def _frozen(function: Any) -> Any:
    """The same function with all that it captures as constants of its graph.

    tf2onnx makes inputs of what it captures besides variables, such as the mean that
    `keras.applications.*.preprocess_input` takes off.
    """
    concrete = function.get_concrete_function()
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    (output,) = concrete.structured_outputs

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output: constant(images)[0]}

    return tf.function(call, input_signature=function.input_signature, autograph=False)


def seeded_images(model: Classifier) -> np.ndarray[Any, Any]:
    """float32[2, height, width, 3]: the same noise every time, in the model's own range."""
    pipeline = model.pipeline
    pixels = np.random.default_rng(0).uniform(0, 255, (2, pipeline.height, pipeline.width, 3))
    return (pixels * pipeline.scale + pipeline.offset).astype(np.float32)
