"""A framework-neutral summary of a model's graph, read by `mlserve.measure`.

A plugin translates its framework's graph: each operation becomes a Node of one of the kinds below,
each small constant a range of values. Weights are constants like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

Bounds = tuple[float, float]
"""The minimum and maximum of a tensor's values."""

ANYTHING: Bounds = (-math.inf, math.inf)
BOUNDS: Mapping[str, Bounds] = {
    "Sigmoid": (0, 1),
    "HardSigmoid": (0, 1),
    "Softmax": (0, 1),
    "Tanh": (-1, 1),
    "Relu": (0, math.inf),
    "Relu6": (0, 6),
}
"""The output range of operations that are bounded for any input, by their framework names."""
SMALL = 4096
"""The most elements of a constant whose values a plugin reads."""


class Op(Enum):
    """What an operation does to values, as far as `measure` needs to know."""

    MOVE = auto()
    """Moves values unchanged: reshape, slice, reverse, concatenate, cast, resize."""
    ADD = auto()
    SUBTRACT = auto()
    MULTIPLY = auto()
    DIVIDE = auto()
    NORMALIZE = auto()
    """Batch normalization with fixed statistics: one factor and one offset per channel."""
    CLIP = auto()
    """Clamps each value: clip, minimum or maximum with a constant, relu."""
    MAP = auto()
    """Any other element-wise function: square root, sigmoid."""
    MEAN = auto()
    """Averages values."""
    LINEAR = auto()
    """Weighted sums: convolution, matrix product."""
    SOFTMAX = auto()
    SHAPE = auto()
    """Returns sizes, not values."""
    OTHER = auto()


def by_name(kinds: Mapping[Op, str]) -> dict[str, Op]:
    """Map each operation name to its kind; `kinds` holds the names separated by spaces."""
    return {name: op for op, names in kinds.items() for name in names.split()}


_AFFINE = frozenset({Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE, Op.NORMALIZE})
_ARITHMETIC = _AFFINE | {Op.CLIP, Op.MAP}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: its kind, its input and output tensors, and its name in its own framework.

    `bounds` limit its result for any input, such as (0, 1) for a sigmoid; for a CLIP, they are the
    limits that it enforces.
    """

    op: Op
    inputs: Sequence[str]
    outputs: Sequence[str]
    name: str
    bounds: Bounds = ANYTHING


@dataclass(frozen=True)
class Graph:
    """A model from the tensor `input` to the tensor `output`, its nodes in topological order.

    `constants` are the value ranges of small constants. `fetch(tensor, value)` runs the model up to
    that tensor, on one image whose pixels all have that value.
    """

    nodes: Sequence[Node]
    input: str
    output: str
    constants: Mapping[str, Bounds]
    fetch: Callable[[str, float], Any]
    _makers: dict[str, Node] = field(default_factory=dict, init=False, repr=False)
    _dependent: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self._dependent.add(self.input)
        for node in self.nodes:
            self._makers.update(dict.fromkeys(node.outputs, node))
            if node.op is Op.SHAPE:
                continue
            if any(tensor in self._dependent for tensor in node.inputs):
                self._dependent.update(node.outputs)

    def maker(self) -> Node | None:
        """Return the operation that computes the output, skipping those that only move values."""
        return self._source(self.output)

    def bounds(self) -> Bounds:
        """Return proven bounds of the output, for any image."""
        return self._bounds(self.output, {})

    def ends_in_weights(self) -> bool:
        """Return whether the output is a weighted sum, bar constant factors, offsets, averages."""
        return self._is_weighted(self.output, {})

    def preprocessing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the arithmetic on the pixels before the first weights.

        These are the names of its operations, and the tensors in which it ends.
        """
        carried, names, ends = {self.input}, [], []
        for node in self.nodes:
            read = [tensor for tensor in node.inputs if tensor in self._dependent]
            if node.op is Op.SHAPE or not carried.intersection(read):
                continue
            if (node.op is Op.MOVE or node.op in _ARITHMETIC) and carried.issuperset(read):
                carried.update(node.outputs)
                names += [node.name] if node.op in _ARITHMETIC else []
            else:
                ends += [tensor for tensor in read if tensor in carried]
        if self.output in carried:
            ends.append(self.output)
        return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(ends))

    def _source(self, tensor: str) -> Node | None:
        node = self._makers.get(tensor)
        while node is not None and node.op is Op.MOVE:
            read = self._variables(node)
            if len(read) != 1:
                return node
            node = self._makers.get(read[0])
        return node

    def _variables(self, node: Node) -> list[str]:
        return [tensor for tensor in node.inputs if tensor in self._dependent]

    def _bounds(self, tensor: str, known: dict[str, Bounds]) -> Bounds:
        if tensor not in known:
            known[tensor] = ANYTHING  # seen by a loop back to this tensor
            known[tensor] = self._computed_bounds(tensor, known)
        return known[tensor]

    def _computed_bounds(self, tensor: str, known: dict[str, Bounds]) -> Bounds:
        node = self._makers.get(tensor)
        if tensor in self.constants or node is None:
            return self.constants.get(tensor, ANYTHING)
        match node.op:
            case Op.MAP | Op.SOFTMAX:
                return node.bounds
            case Op.CLIP:
                low, high = self._hull(node, known)
                return max(node.bounds[0], low), min(node.bounds[1], high)
            case Op.MOVE | Op.MEAN:
                return self._hull(node, known)
            case Op.ADD | Op.SUBTRACT | Op.MULTIPLY | Op.DIVIDE if len(node.inputs) == 2:  # noqa: PLR2004
                left, right = (self._bounds(each, known) for each in node.inputs)
                return _combined(node.op, left, right)
        return ANYTHING

    def _hull(self, node: Node, known: dict[str, Bounds]) -> Bounds:
        """Return the bounds of what a node moves or averages; if any input varies, of those.

        A constant beside a varying input is a shape, an index or a limit.
        """
        parts = [self._bounds(each, known) for each in self._variables(node) or node.inputs[:1]]
        return min(low for low, _ in parts), max(high for _, high in parts)

    def _is_weighted(self, tensor: str, known: dict[str, bool]) -> bool:
        if tensor not in known:
            known[tensor] = False
            node = self._source(tensor)
            if node is not None and node.op is Op.LINEAR:
                known[tensor] = True
            elif node is not None and (node.op in _AFFINE or node.op in (Op.MEAN, Op.MOVE)):
                parts = [self._is_weighted(each, known) for each in self._variables(node)]
                known[tensor] = bool(parts) and all(parts)
        return known[tensor]


def _combined(op: Op, left: Bounds, right: Bounds) -> Bounds:
    """Return the bounds of `left op right`, element by element."""
    pairs = [(first, second) for first in left for second in right]
    if op is Op.DIVIDE and right[0] <= 0 <= right[1]:
        return ANYTHING
    try:
        results = [_apply(op, first, second) for first, second in pairs]
    except ZeroDivisionError:
        return ANYTHING
    if any(math.isnan(each) for each in results):
        return ANYTHING
    return min(results), max(results)


def _apply(op: Op, first: float, second: float) -> float:
    match op:
        case Op.ADD:
            return first + second
        case Op.SUBTRACT:
            return first - second
        case Op.MULTIPLY:
            return first * second
        case Op.DIVIDE:
            return first / second
        case _:
            return math.nan
