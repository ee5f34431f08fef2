"""Write a classifier as `model.onnx`: the float model only, as the pipeline is in the manifest."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from mlserve.errors import ExportError, MlserveError, reason_of
from mlserve.image_pipeline.classifier import image_signatures
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier
from mlserve.tensors import Signature
from mlserve_onnxruntime.external_data import whole_model
from mlserve_onnxruntime.sessions import Sessions, plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of numpy and protobuf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

OPSET = 18
INPUT = "images"
_LOGITS = (Activation.SOFTMAX, Activation.SIGMOID)


def converted(model: Classifier) -> tuple[Any, Any]:
    """Return the ONNX model (a ModelProto) and the TensorFlow function that it was made from.

    It maps `images` float32[N, height, width, 3] to `logits` or `scores` float32[N, units]. Raises
    ExportError when an operation has no counterpart in ONNX.
    """
    function = _function(model)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # the error below covers it
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
    """Return the function with everything it captures turned into constants of its graph.

    tf2onnx turns captures other than variables into inputs, such as the mean that
    `keras.applications.*.preprocess_input` subtracts.
    """
    concrete = function.get_concrete_function()
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    (output,) = concrete.structured_outputs

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output: constant(images)[0]}

    return tf.function(call, input_signature=function.input_signature, autograph=False)


def seeded_images(model: Classifier) -> np.ndarray[Any, Any]:
    """Return float32[2, height, width, 3]: reproducible noise in the model's own range."""
    pipeline = model.pipeline
    pixels = np.random.default_rng(0).uniform(0, 255, (2, pipeline.height, pipeline.width, 3))
    return (pixels * pipeline.scale + pipeline.offset).astype(np.float32)


TOLERANCE = 1e-4
"""The allowed difference from TensorFlow's outputs, relative to the largest of them."""
_LARGEST = 2**31 - 1
"""The maximum bytes of a protobuf message, and so of one ONNX file."""

_NOT_OURS = "export it for --backend tfserving"


def write_tensorflow(model: Classifier, file: Path) -> Sequence[Signature]:
    """Convert the model, write it, and check it against TensorFlow; return its signatures.

    Raises ExportError when it cannot be converted or gives other numbers.
    """
    proto, function = converted(model)
    _write(model, proto, file, _NOT_OURS)
    _check_same_answer(model, file, seeded_images(model), function)
    return image_signatures(model.pipeline)


def write_onnx_file(model: Classifier, file: Path) -> Sequence[Signature]:
    """Write the user's own ONNX file, including the weights beside it; return its signatures.

    Raises ExportError for a file that breaks the rules of ONNX.
    """
    hint = "write the file again with the tool that made it"
    given = model.forward
    proto = given if isinstance(given, onnx.ModelProto) else whole_model(Path(str(given)))
    _write(model, proto, file, hint)
    return image_signatures(model.pipeline)


def _write(model: Classifier, proto: Any, file: Path, hint: str) -> None:
    if proto.ByteSize() > _LARGEST:
        raise ExportError(
            f"the model {model.name} has {proto.ByteSize() / 2**30:.1f} GiB, more than one ONNX "
            "file can hold (2 GiB)",
            hint="take a smaller model, or export it for --backend tfserving",
        )
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"the ONNX model {model.name} is not valid: {plain(error)}",
            hint=hint,
        ) from error
    onnx.save(proto, str(file))


def _check_same_answer(
    model: Classifier, file: Path, images: Any, function: Callable[[Any], Any]
) -> None:
    theirs = function(images)
    try:
        sessions = Sessions(file, LoadOptions(provider="cpu"))
        feeds = {sessions.inputs[0].name: images}
        (ours,) = sessions.run([sessions.outputs[0].name], feeds, None)
    except MlserveError as error:
        raise ExportError(
            f"ONNX Runtime does not run the exported {model.name}: {error.message}",
            hint=_NOT_OURS,
        ) from error
    if not np.isfinite(theirs).all():
        raise ExportError(
            f"the model {model.name} gives outputs that are not finite numbers for random images",
            hint="check the weights, and the range of the pixels (--scale)",
        )
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(theirs).max())):
        raise ExportError(
            f"the exported {model.name} differs from TensorFlow's by {difference:.2g} on a test "
            f"image, more than {TOLERANCE:g}",
            hint="export it for --backend tfserving; please report it with the model",
        )
