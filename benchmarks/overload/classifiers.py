"""Image classifiers of a chosen cost: convolutions with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10
_CHANNELS = 64
_BRIGHT = 0.5
_TIMES_SLOWER = 3
Graph = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


@dataclass(frozen=True)
class Model:
    """A classifier: the side of its images in pixels, and its convolutions.

    `seconds` is about what a call takes on one core of the machine of docs/overload.md. One that
    `turns_slow` needs three times as long for a bright image.
    """

    name: str
    side: int
    layers: int
    seconds: float
    turns_slow: bool = False


MODELS = {
    model.name: model
    for model in (
        Model("slow", 224, 26, 0.12),
        Model("fast", 112, 8, 0.012),
        Model("tiny", 64, 6, 0.004),
        Model("turning", 224, 8, 0.04, turns_slow=True),
    )
}


def write_model(file: Path, model: Model) -> None:
    """Write the classifier as an ONNX file."""
    shape = ["n", model.side, model.side, 3]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])
    nodes = [helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])]
    tower = _turning_tower(model.layers) if model.turns_slow else _tower("t", model.layers)
    dense = _weights(np.random.default_rng(1).normal(0, 0.1, (_CHANNELS, CLASSES)), "dense")
    nodes += [
        *tower[0],
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "classifier", [image], [scores], [*tower[1], dense])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)


def _turning_tower(layers: int) -> Graph:
    """Return a tower that is three times as high where the image is bright."""
    branches = {}
    for name, times in (("then_branch", _TIMES_SLOWER), ("else_branch", 1)):
        nodes, tensors = _tower(name, layers * times)
        out = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(nodes, name, [], [out], tensors)
    limit = numpy_helper.from_array(np.float32(_BRIGHT), "limit")
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["brightness"], keepdims=0),
        helper.make_node("Greater", ["brightness", "limit"], ["is_bright"]),
        helper.make_node("If", ["is_bright"], ["features"], **branches),
    ]
    return nodes, [limit]


def _tower(name: str, layers: int) -> Graph:
    """Return convolutions from `planes` to `features`."""
    rng = np.random.default_rng(0)
    tensors = [_weights(rng.normal(0, 0.2, (_CHANNELS, 3, 3, 3)), f"{name}_stem")]
    nodes = [_conv("planes", f"{name}_stem", f"{name}_0", stride=3)]
    for number in range(layers):
        weights, last = f"{name}_conv{number}", number == layers - 1
        tensors.append(_weights(rng.normal(0, 0.05, (_CHANNELS, _CHANNELS, 3, 3)), weights))
        nodes += [
            _conv(f"{name}_{number}", weights, f"{weights}_out", stride=1),
            helper.make_node(
                "Relu", [f"{weights}_out"], ["features" if last else f"{name}_{number + 1}"]
            ),
        ]
    return nodes, tensors


def _weights(values: NDArray[np.float64], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _conv(source: str, weights: str, out: str, *, stride: int) -> onnx.NodeProto:
    sizes = {"pads": [1, 1, 1, 1], "strides": [stride, stride]}
    return helper.make_node("Conv", [source, weights], [out], **sizes)
