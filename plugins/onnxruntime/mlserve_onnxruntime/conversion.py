"""Convert a TensorFlow function to ONNX with tf2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import tensorflow as tf

from mlserve.errors import ExportError, reason_of
from mlserve.frameworks import unheard

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of numpy and protobuf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    from tf2onnx.optimizer import optimize_graph
    from tf2onnx.tf_loader import fix_freezing_errors_part2, tf_optimize
    from tf2onnx.tfonnx import process_tf_graph

OPSET = 18
NOT_OURS = "export it for --backend tfserving"
_TABLES = "LookupTable"
"""How the operations of lookup tables begin."""


def to_onnx(name: str, function: Any) -> Any:
    """Return the ModelProto of a `tf.function` with an input signature and a dict of outputs.

    Inputs and outputs keep their names. `name` is the model's in messages. Raises ExportError when
    an operation has no counterpart in ONNX.
    """
    try:
        with unheard("tf2onnx"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = _frozen(function)
            try:
                return _converted(frozen, _optimized_in_place)
            except Exception:  # noqa: BLE001 - an optimization that fails can be left out
                return _converted(frozen, optimize_graph)
    except Exception as error:  # tf2onnx raises whatever its rewriters and TensorFlow raise
        raise ExportError(
            f"the model {name} cannot be converted to ONNX: {reason_of(error)}",
            hint=f"{NOT_OURS}, or give an ONNX file of your own: --weights FILE.onnx",
        ) from error


@dataclass(frozen=True)
class _Frozen:
    """A graph without variables; `names` maps its tensors to the names of the signature."""

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    names: dict[str, str]


def _frozen(function: Any) -> _Frozen:
    """Turn everything that the function captures into constants of its graph.

    `tf2onnx.convert.from_function` would turn captures other than variables into inputs, such as
    the mean that `keras.applications.*.preprocess_input` subtracts. It would also freeze the graph
    once more, which copies the weights half a dozen times.
    """
    concrete = function.get_concrete_function()
    _require_no_tables(concrete)
    constant = convert_variables_to_constants_v2(
        concrete, lower_control_flow=False, aggressive_inlining=True
    )
    inputs = [tensor.name for tensor in constant.inputs]
    outputs = [tensor.name for tensor in constant.outputs]
    given = [spec.name for spec in function.input_signature]
    returned = sorted(concrete.structured_outputs)  # the order in which a dict is flattened
    names = dict(zip(inputs + outputs, given + returned, strict=True))
    graph_def = fix_freezing_errors_part2(constant.graph.as_graph_def(add_shapes=True))
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        graph_def = tf_optimize(inputs, outputs, graph_def)
    return _Frozen(graph_def, inputs, outputs, names)


def _converted(frozen: _Frozen, optimized: Callable[[Any], Any]) -> Any:
    """Return the ModelProto of the graph."""
    with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
        tf.import_graph_def(frozen.graph_def, name="")
        onnx_graph = process_tf_graph(
            graph,
            continue_on_error=True,
            opset=OPSET,
            input_names=frozen.inputs,
            output_names=frozen.outputs,
            tensors_to_rename=frozen.names,
        )
    return optimized(onnx_graph).make_model("converted by tf2onnx")


def _optimized_in_place(graph: Any) -> Any:
    """Optimize without a copy of all weights before each optimization and one after each.

    The copy before lets tf2onnx go on when one fails; here it raises. The copy after, in
    `update_proto`, is made again by `make_model`, and protobuf frees none until the graph is gone.
    """
    graph.update_proto = lambda: None
    optimized = optimize_graph(graph, catch_errors=False)
    vars(optimized).pop("update_proto", None)
    return optimized


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
