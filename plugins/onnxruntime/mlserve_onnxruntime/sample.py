"""An ONNX file for the conformance suite."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

_OPSET = 18
_IR_VERSION = 10
"""Those of the oldest ONNX Runtime that the plugin takes."""


def write_sample(file: Path) -> None:
    """Write the model: numbers `x` [N, 2] to `y`, and strings `text` [N] as they are."""
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "half"], ["y"]),
            helper.make_node("Identity", ["text"], ["same"]),
        ],
        "sample",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("text", TensorProto.STRING, ["N"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("same", TensorProto.STRING, ["N"]),
        ],
        [half],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
