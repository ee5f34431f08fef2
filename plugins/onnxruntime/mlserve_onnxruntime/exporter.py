"""Convert a TensorFlow classifier: the float model only, as the pipeline is in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlserve.differences import different_output
from mlserve.errors import ExportError, MlserveError
from mlserve.image_pipeline.arithmetic import normalized
from mlserve.image_pipeline.classifier import image_signatures
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier
from mlserve.tensors import Signature
from mlserve_onnxruntime.conversion import NOT_OURS, to_onnx
from mlserve_onnxruntime.onnx_writer import write_model
from mlserve_onnxruntime.same_answers import TOLERANCE
from mlserve_onnxruntime.sessions import Sessions

INPUT = "images"
_LOGITS = (Activation.SOFTMAX, Activation.SIGMOID)


def converted(model: Classifier) -> tuple[Any, Any]:
    """Return the ONNX model (a ModelProto) and the TensorFlow function that it was made from.

    It maps `images` float32[N, height, width, depth] to `logits` or `scores` float32[N, units].
    Raises ExportError when an operation has no counterpart in ONNX.
    """
    function = _function(model)
    proto = to_onnx(model.name, function)
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    return proto, lambda images: next(iter(function(tf.constant(images)).values())).numpy()


def _function(model: Classifier) -> Any:
    pipeline = model.pipeline
    output = "logits" if pipeline.activation in _LOGITS else "scores"
    units = 1 if pipeline.activation.is_binary else pipeline.classes
    shape = [None, *pipeline.size, pipeline.preprocessing.depth]
    images = tf.TensorSpec(shape, tf.float32, name=INPUT)

    def forward(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.cast(model.forward(images), tf.float32)
        return {output: tf.ensure_shape(outputs, [None, units])}

    return tf.function(forward, input_signature=[images], autograph=False)


def seeded_images(model: Classifier) -> np.ndarray[Any, Any]:
    """Return float32[2, height, width, depth]: reproducible noise in the model's own range."""
    pipeline = model.pipeline
    shape = (2, *pipeline.size, pipeline.preprocessing.depth)
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    return normalized(pixels, pipeline)


def write_tensorflow(model: Classifier, file: Path) -> Sequence[Signature]:
    """Convert the model, write it, and check it against TensorFlow; return its signatures.

    Raises ExportError when it cannot be converted or gives other numbers.
    """
    proto, function = converted(model)
    write_model(model.name, proto, file, NOT_OURS)
    _check_same_answer(model, file, seeded_images(model), function)
    return image_signatures(model.pipeline)


def _check_same_answer(
    model: Classifier, file: Path, images: Any, function: Callable[[Any], Any]
) -> None:
    theirs = function(images)
    try:
        sessions = Sessions(file, LoadOptions(provider="cpu", instances=1))
        feeds = {sessions.inputs[0].name: images}
        (ours,) = sessions.run([sessions.outputs[0].name], feeds, None)
    except MlserveError as error:
        raise ExportError(
            f"ONNX Runtime does not run the exported {model.name}: {error.message}",
            hint=NOT_OURS,
        ) from error
    if not np.isfinite(theirs).all():
        raise ExportError(
            f"the model {model.name} gives outputs that are not finite numbers for random images",
            hint="check the weights, and the range of the pixels (--scale)",
        )
    if different_output({"scores": theirs}, {"scores": ours}, TOLERANCE):
        raise ExportError(
            f"the exported {model.name} differs from TensorFlow's on a test image, by more than "
            f"{TOLERANCE:g} of the largest score",
            hint="export it for --backend tfserving; please report it with the model",
        )
