"""Image classifiers of a chosen cost for `overload.py`: convolutions with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 224
CLASSES = 10
CHANNELS = 64
LAYERS = {"base": 28, "fast": 2, "slow": 86}
"""Convolutions of 0.4 GFLOP each: `base` costs what Inception v3 costs, 11 GFLOP."""


def write_model(file: Path, layers: int) -> None:
    """Write a classifier with that many convolutions, as an ONNX file."""
    rng = np.random.default_rng(0)
    weights = {"stem": rng.normal(0, 0.2, (CHANNELS, 3, 3, 3))}
    nodes = [_conv("image", "stem", 3)]
    last = "stem_out"
    for number in range(layers):
        name = f"conv{number}"
        weights[name] = rng.normal(0, 0.05, (CHANNELS, CHANNELS, 3, 3))
        nodes += [_conv(last, name, 1), helper.make_node("Relu", [f"{name}_out"], [f"{name}_on"])]
        last = f"{name}_on"
    weights["dense"] = rng.normal(0, 0.1, (CHANNELS, CLASSES))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", SIZE, SIZE, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])
    nodes.insert(0, helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
    nodes[1].input[0] = "planes"
    tensors = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "classifier", [image], [scores], tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)


def _conv(source: str, name: str, stride: int) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", [source, name], [f"{name}_out"], pads=[1, 1, 1, 1], strides=[stride, stride]
    )
