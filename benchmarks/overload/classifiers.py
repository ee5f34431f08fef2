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
    """Return a tower beside which another runs, twice as high, where the images are bright.

    The other's features count for nothing, so that an answer does not depend on the brightness of
    its neighbours in a batch.
    """
    nodes, tensors = _tower("usual", layers, "usual_features")
    extra, own = _tower("extra", layers * (_TIMES_SLOWER - 1), "extra_features")
    extra += [
        helper.make_node("Mul", ["extra_features", "nothing"], ["no_features"]),
        helper.make_node("Add", ["usual_features", "no_features"], ["slow_features"]),
    ]
    own.append(numpy_helper.from_array(np.float32(0), "nothing"))
    usual = [helper.make_node("Identity", ["usual_features"], ["same_features"])]
    nodes += [
        helper.make_node("ReduceMean", ["image"], ["brightness"], keepdims=0),
        helper.make_node("Greater", ["brightness", "limit"], ["is_bright"]),
        helper.make_node(
            "If",
            ["is_bright"],
            ["features"],
            then_branch=_branch("bright", extra, "slow_features", own),
            else_branch=_branch("dark", usual, "same_features", []),
        ),
    ]
    return nodes, [*tensors, numpy_helper.from_array(np.float32(_BRIGHT), "limit")]


def _branch(
    name: str, nodes: list[onnx.NodeProto], out: str, tensors: list[onnx.TensorProto]
) -> onnx.GraphProto:
    features = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [features], tensors)


def _tower(name: str, layers: int, out: str = "features") -> Graph:
    """Return convolutions from `planes` to `out`."""
    rng = np.random.default_rng(0)
    tensors = [_weights(rng.normal(0, 0.2, (_CHANNELS, 3, 3, 3)), f"{name}_stem")]
    nodes = [_conv("planes", f"{name}_stem", f"{name}_0", stride=3)]
    for number in range(layers):
        weights, last = f"{name}_conv{number}", number == layers - 1
        tensors.append(_weights(rng.normal(0, 0.05, (_CHANNELS, _CHANNELS, 3, 3)), weights))
        nodes += [
            _conv(f"{name}_{number}", weights, f"{weights}_out", stride=1),
            helper.make_node("Relu", [f"{weights}_out"], [out if last else f"{name}_{number + 1}"]),
        ]
    return nodes, tensors


def _weights(values: NDArray[np.float64], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _conv(source: str, weights: str, out: str, *, stride: int) -> onnx.NodeProto:
    sizes = {"pads": [1, 1, 1, 1], "strides": [stride, stride]}
    return helper.make_node("Conv", [source, weights], [out], **sizes)
