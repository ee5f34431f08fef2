"""An ONNX model in the words of `mlserve.graph`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from mlserve.graph import ANYTHING, BOUNDS, SMALL, Bounds, Graph, Node, Op, by_name
from mlserve_onnxruntime.external_data import fill_weights
from mlserve_onnxruntime.layout import ImageInput
from mlserve_onnxruntime.sessions import ERRORS_ONLY, LOAD_ERRORS

_OPS = by_name(
    {
        Op.MOVE: (
            "Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Gather Split Concat Cast "
            "CastLike QuantizeLinear DequantizeLinear Dropout Resize Upsample Expand"
        ),
        Op.ADD: "Add Sum",
        Op.SUBTRACT: "Sub",
        Op.MULTIPLY: "Mul",
        Op.DIVIDE: "Div",
        Op.NORMALIZE: "BatchNormalization",
        Op.CLIP: "Clip Min Max Relu",
        Op.MAP: "Neg Sqrt Pow Exp Log Abs Floor Round Reciprocal Sigmoid HardSigmoid Tanh Sign",
        Op.MEAN: "ReduceMean GlobalAveragePool AveragePool Mean",
        Op.LINEAR: "MatMul Gemm Conv ConvTranspose Einsum MatMulInteger ConvInteger QLinearConv "
        "QLinearMatMul FusedConv FusedMatMul",
        Op.SOFTMAX: "Softmax",
        Op.SHAPE: "Shape Size",
    }
)


def graph_of(path: Path, image: ImageInput, output: str, size: tuple[int, int]) -> Graph:
    """The model in that file, whose image input and output are known."""
    model = onnx.load(str(path), load_external_data=False)
    constants = dict(_constants(model.graph))
    return Graph(
        [_node(node, constants) for node in model.graph.node],
        image.name,
        output,
        constants,
        _fetch(model, path, image, size),
    )


def _constants(graph: Any) -> Iterator[tuple[str, Bounds]]:
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_node_attr_value(node, node.attribute[0].name)
            if isinstance(value, onnx.TensorProto):
                tensors.append((node.output[0], value))
            elif isinstance(value, float):
                yield node.output[0], (value, value)
    for name, tensor in tensors:
        is_here = tensor.data_location != onnx.TensorProto.EXTERNAL
        if is_here and tensor.data_type in _FLOATS and 0 < np.prod(tensor.dims) <= SMALL:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            yield name, (float(values.min()), float(values.max()))


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def _node(node: Any, constants: dict[str, Bounds]) -> Node:
    kind = node.op_type
    op = _OPS.get(kind, Op.OTHER) if node.domain in ("", "ai.onnx", "com.microsoft") else Op.OTHER
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if kind == "BatchNormalization" and attributes.get("training_mode"):
        op = Op.OTHER
    bounds = BOUNDS.get(kind, ANYTHING)
    if kind == "Clip":
        bounds = _clip_bounds(node, attributes, constants)
    if kind in ("Min", "Max"):
        limits = [constants[name] for name in node.input if name in constants]
        op = op if limits else Op.OTHER
        if limits:
            bounds = (-np.inf, limits[0][1]) if kind == "Min" else (limits[0][0], np.inf)
    return Node(op, list(filter(None, node.input)), list(node.output), kind, bounds)


def _clip_bounds(node: Any, attributes: dict[str, Any], constants: dict[str, Bounds]) -> Bounds:
    """Its limits: inputs from opset 11 on, attributes before."""
    low, high = (
        constants.get(node.input[at], ANYTHING) if len(node.input) > at else ANYTHING
        for at in (1, 2)
    )
    return attributes.get("min", low[0]), attributes.get("max", high[1])


def _fetch(
    model: Any, path: Path, image: ImageInput, size: tuple[int, int]
) -> Callable[[str, float], Any]:
    def fetch(name: str, value: float) -> Any:
        pixels = image.arranged(np.full((1, *size, 3), value, np.float32))
        if name == image.name:
            return pixels
        part = onnx.ModelProto()
        part.CopyFrom(_part(model, image.name, name))
        fill_weights(part, path.parent)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        try:
            session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return session.run([name], {image.name: pixels})[0]
        except LOAD_ERRORS:  # a part that cannot be run alone says nothing
            return np.full(1, np.nan, np.float32)

    return fetch


def _part(model: Any, image: str, tensor: str) -> Any:
    """The model up to that tensor: the nodes that it needs, and their constants."""
    nodes, needed = [], {tensor}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    graph = onnx.helper.make_graph(
        list(reversed(nodes)),
        "part",
        [item for item in model.graph.input if item.name == image],
        [onnx.ValueInfoProto(name=tensor)],
        [item for item in model.graph.initializer if item.name in needed],
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
