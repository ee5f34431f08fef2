"""Translate the graph of a program into the summary that `mlserve.measure` reads."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from mlserve.graph import ANYTHING, SMALL, Bounds, Graph, Node, Op, by_name
from mlserve.image_input import ImageInput

_OPS = by_name(
    {
        Op.MOVE: (
            "alias cat channel_shuffle chunk clone constant_pad_nd contiguous detach dropout "
            "expand feature_dropout flatten flip getitem lift_fresh_copy movedim narrow pad "
            "permute pixel_shuffle repeat reshape select slice split split_with_sizes squeeze "
            "stack t to _to_copy transpose type_as unsqueeze upsample_bilinear2d "
            "upsample_nearest2d view _unsafe_view"
        ),
        Op.ADD: "add",
        Op.SUBTRACT: "sub rsub",
        Op.MULTIPLY: "mul",
        Op.DIVIDE: "div",
        Op.NORMALIZE: "batch_norm _native_batch_norm_legit_no_training",
        Op.CLIP: "clamp clamp_min clamp_max hardtanh relu relu6",
        Op.MAP: "abs exp floor gelu hardsigmoid hardswish log neg pow reciprocal round sigmoid "
        "silu sqrt square tanh",
        Op.MEAN: "adaptive_avg_pool2d avg_pool2d mean",
        Op.LINEAR: "addmm bmm conv2d convolution einsum linear matmul mm",
        Op.SOFTMAX: "softmax _softmax",
        Op.SHAPE: "sym_size size sym_numel numel",
    }
)
_BOUNDS: Mapping[str, Bounds] = {
    "sigmoid": (0, 1),
    "hardsigmoid": (0, 1),
    "softmax": (0, 1),
    "_softmax": (0, 1),
    "tanh": (-1, 1),
    "relu": (0, math.inf),
    "relu6": (0, 6),
}
_TWO = (Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE)
_TRAINING = 5
"""The position of `training` among the arguments of `batch_norm`."""


def graph_of(module: GraphModule, image: ImageInput, size: tuple[int, int]) -> Graph:
    """Return the graph of a program with one image input and one output."""
    (placeholder,) = (node for node in module.graph.nodes if node.op == "placeholder")
    output = module.graph.output_node().all_input_nodes[0]
    constants = dict(_constants(module))
    nodes = [_node(node, constants) for node in module.graph.nodes if node.op == "call_function"]
    fetch = _fetch(module, placeholder.name, image, size)
    return Graph(nodes, placeholder.name, output.name, constants, fetch)


def _constants(module: GraphModule) -> Iterator[tuple[str, Bounds]]:
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(node.target)(module)
        if torch.is_tensor(value) and value.is_floating_point() and 0 < value.numel() <= SMALL:
            yield node.name, (float(value.detach().min()), float(value.detach().max()))


def _name(node: FxNode) -> str:
    """Return the operation's name, without the underscore of one that works in place: `relu`."""
    packet = getattr(node.target, "overloadpacket", node.target)
    name = str(getattr(packet, "__name__", packet))
    return name if name[0] == "_" else name.removesuffix("_")


def _node(node: FxNode, constants: dict[str, Bounds]) -> Node:
    name = _name(node)
    op, bounds = _OPS.get(name, Op.OTHER), _BOUNDS.get(name, ANYTHING)
    inputs = [each.name for each in node.all_input_nodes]
    if op in _TWO:
        inputs = [_operand(argument, constants) for argument in node.args[:2]]
        op = Op.OTHER if node.kwargs else op  # alpha, or the rounding of a division
        inputs = inputs[::-1] if name == "rsub" else inputs
    if name == "batch_norm" and node.args[_TRAINING]:
        op = Op.OTHER
    if name in ("clamp", "hardtanh"):
        bounds = _limits(node, (-1.0, 1.0) if name == "hardtanh" else ANYTHING)
    if name == "clamp_min":
        bounds = (_number(node.args[1], -math.inf), math.inf)
    if name == "clamp_max":
        bounds = (-math.inf, _number(node.args[1], math.inf))
    return Node(op, inputs, [node.name], name, bounds)


def _operand(argument: Any, constants: dict[str, Bounds]) -> str:
    if isinstance(argument, FxNode):
        operand: str = argument.name
        return operand
    name = f"the number {argument}"
    value = _number(argument, math.nan)
    constants[name] = (value, value)
    return name


def _limits(node: FxNode, usual: Bounds) -> Bounds:
    low, high = (
        node.args[at] if len(node.args) > at else node.kwargs.get(name)
        for at, name in ((1, "min"), (2, "max"))
    )
    return _number(low, usual[0]), _number(high, usual[1])


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _fetch(
    module: GraphModule, placeholder: str, image: ImageInput, size: tuple[int, int]
) -> Callable[[str, float], Any]:
    def fetch(name: str, value: float) -> Any:
        pixels = image.arranged(np.full((1, *size, image.depth), value, np.float32))
        if name == placeholder:
            return pixels
        try:
            with torch.inference_mode():
                _UpTo(module, name).run(torch.from_numpy(pixels))
        except _Reached as reached:
            return reached.value
        except (RuntimeError, AssertionError):  # a part that cannot run alone proves nothing
            return np.full(1, np.nan, np.float32)
        return np.full(1, np.nan, np.float32)

    return fetch


class _Reached(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _UpTo(Interpreter):  # type: ignore[misc]
    """Runs a graph up to the node of that name, and raises `_Reached` with its value."""

    def __init__(self, module: GraphModule, name: str) -> None:
        super().__init__(module)
        self._name = name

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name == self._name:
            raise _Reached(value.float().cpu().numpy())
        return value


def id_limits(module: GraphModule) -> dict[str, int]:
    """Return the rows of the table that each input of ids is looked up in, by input name.

    An id beyond them is an error of the CPU, and ends the whole process' use of a GPU.
    """
    found: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or _name(node) != "embedding":
            continue
        table, ids = _arguments(node.args)
        source = _moved(ids)
        if table.op == "get_attr" and source.op == "placeholder":
            rows = operator.attrgetter(table.target)(module).shape[0]
            found[source.name] = min(rows, found.get(source.name, rows))
    return found


def _arguments(arguments: Sequence[Any]) -> tuple[FxNode, FxNode]:
    table, ids, *_ = arguments
    return table, ids


def _moved(node: FxNode) -> FxNode:
    """Return where the values of a node come from, past what only moves them."""
    while node.op == "call_function" and _OPS.get(_name(node)) is Op.MOVE:
        sources = node.all_input_nodes
        if len(sources) != 1:
            return node
        node = sources[0]
    return node
