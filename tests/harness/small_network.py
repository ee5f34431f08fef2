"""A small convolutional network as an ONNX file, with seeded weights, and what goes wrong with it.

It takes float[N, 3, 32, 32] and has ten classes. Its scores depend on colours, edges and places, so
that a change of the model or of its image pipeline shows in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlserve.sources import ModelRequest

SIZE = 32
LABELS = tuple(f"class {number}" for number in range(10))
MEAN, STD = (0.45, 0.41, 0.36), (0.22, 0.21, 0.23)


def request_for(folder: Path, *, labels: tuple[str, ...] = LABELS, **options: Any) -> ModelRequest:
    """Write the network into the folder, and return the request to export it.

    `seed`, `gain` and `is_batch_dependent` are those of `write_network`; the other options are
    fields of ModelRequest.
    """
    network = {
        name: options.pop(name)
        for name in ("seed", "gain", "is_batch_dependent")
        if name in options
    }
    path = folder / "network.onnx"
    write_network(path, **network)
    return ModelRequest("own", str(path), labels, activation="softmax", **options)


def write_network(
    path: Path, *, seed: int = 17, gain: float = 0.1, is_batch_dependent: bool = False
) -> None:
    """Write the network. `gain` multiplies its logits: with a small one all scores are alike."""
    random = np.random.default_rng(seed)
    weights = {
        "first": random.normal(0, 0.3, (8, 3, 3, 3)),
        "second": random.normal(0, 0.2, (16, 8, 3, 3)),
        "last": random.normal(0, gain / 8, (16 * 16, len(LABELS))),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("AveragePool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        *_normalized("e", "f", is_batch_dependent),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("MatMul", ["g", "last"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opset = helper.make_operatorsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


def _normalized(given: str, output: str, is_batch_dependent: bool) -> list[Any]:
    """Return nodes that subtract the mean: of each image, or, wrongly, of the whole batch.

    The second is a batch normalisation that was left in training mode.
    """
    axes = [0, 1, 2, 3] if is_batch_dependent else [1, 2, 3]
    return [
        helper.make_node("ReduceMean", [given], ["mean"], axes=axes, keepdims=1),
        helper.make_node("Sub", [given, "mean"], [output]),
    ]
