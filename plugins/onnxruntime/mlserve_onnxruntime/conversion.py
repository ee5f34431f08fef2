"""Convert a TensorFlow function to ONNX with tf2onnx."""

from __future__ import annotations

import logging
import warnings
from itertools import chain
from typing import Any

import tensorflow as tf

from mlserve.errors import ExportError, reason_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of numpy and protobuf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

OPSET = 18
NOT_OURS = "export it for --backend tfserving"
_TABLES = "LookupTable"
"""How the operations of lookup tables begin."""


def to_onnx(name: str, function: Any) -> Any:
    """Return the ModelProto of a `tf.function` with an input signature and a dict of outputs.

    Inputs and outputs keep their names. `name` is the model's in messages. Raises ExportError when
    an operation has no counterpart in ONNX.
    """
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
            f"the model {name} cannot be converted to ONNX: {reason_of(error)}",
            hint=f"{NOT_OURS}, or give an ONNX file of your own: --weights FILE.onnx",
        ) from error
    return proto


def _frozen(function: Any) -> Any:
    """Return the function with everything it captures turned into constants of its graph.

    tf2onnx turns captures other than variables into inputs, such as the mean that
    `keras.applications.*.preprocess_input` subtracts.
    """
    concrete = function.get_concrete_function()
    _require_no_tables(concrete)
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    names = sorted(concrete.structured_outputs)  # the order in which a dict is flattened

    def call(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(names, constant(*inputs), strict=True))

    return tf.function(call, input_signature=function.input_signature, autograph=False)


def _require_no_tables(concrete: Any) -> None:
    """Raise ValueError for a graph with lookup tables, which cannot become constants."""
    graph = concrete.graph.as_graph_def()
    inside = (function.node_def for function in graph.library.function)
    found = {node.op for node in chain(graph.node, *inside) if node.op.startswith(_TABLES)}
    if found:
        raise ValueError(
            f"it looks up its inputs in a table ({', '.join(sorted(found))}), as TextVectorization "
            "and StringLookup do, which tf2onnx cannot convert"
        )
