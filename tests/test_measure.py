"""What is read out of a graph, whatever framework it comes from: scale and activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mlserve.contract import RAW, SYMMETRIC, UNIT, Scale
from mlserve.errors import ExportError
from mlserve.graph import ANYTHING, Bounds, Graph, Node, Op
from mlserve.measure import Subject, measure
from mlserve.sources import How, ModelRequest

Array = np.ndarray[Any, Any]
WEIGHTS = np.random.default_rng(0).normal(0, 1, (3, 3)).astype(np.float32)
MEAN = np.float32([0.485, 0.456, 0.406])
DEVIATION = np.float32([0.229, 0.224, 0.225])


def chain(*ops: Op, constants: Sequence[float] = ()) -> Graph:
    """Nodes in a row from `x0`, each with a constant beside it, in the order given."""
    names = [f"x{index}" for index in range(len(ops) + 1)]
    values = {f"c{index}": (value, value) for index, value in enumerate(constants)}
    nodes = []
    for index, op in enumerate(ops):
        beside = [name for name in (f"c{index}",) if name in values]
        nodes.append(Node(op, [names[index], *beside], [names[index + 1]], str(op)))
    return Graph(nodes, names[0], names[-1], values, lambda *_: None)


def with_preprocessing(function: Callable[[Any], Any]) -> Subject:
    """A linear classifier of three colours behind that function of the pixels."""

    def run(images: Array) -> Array:
        return function(images.astype(np.float32)).mean(axis=(1, 2)) @ WEIGHTS

    def fetch(tensor: str, value: float) -> Array:
        assert tensor == "scaled"
        return function(np.full((1, 4, 4, 3), value, np.float32))

    nodes = [
        Node(Op.MULTIPLY, ["images", "factor"], ["scaled"], "Mul"),
        Node(Op.LINEAR, ["scaled", "weights"], ["out"], "MatMul"),
    ]
    return Subject("the model", run, 4, 4, Graph(nodes, "images", "out", {}, fetch))


@pytest.mark.parametrize(
    ("function", "scale"),
    [
        (lambda x: x / 255, RAW),
        (lambda x: x / 255 - 0.5, RAW),
        (lambda x: x / 127.5 - 1, RAW),
        (lambda x: (x / 255 - MEAN) / DEVIATION, RAW),
        (lambda x: x[..., ::-1] - np.float32([103.939, 116.779, 123.68]), RAW),
        (lambda x: x - 128, RAW),
        (lambda x: (x - 230) / 10, RAW),
        (lambda x: x * 2 - 1, UNIT),
        (lambda x: x - 0.5, UNIT),
        (lambda x: (x - MEAN) / DEVIATION, UNIT),
        (lambda x: x * 255, UNIT),
        (lambda x: x * 255 - 120, UNIT),
        (lambda x: (x + 1) / 2, SYMMETRIC),
        (lambda x: (x + 1) * 127.5, SYMMETRIC),
    ],
)
def test_the_range_is_the_one_that_becomes_a_usual_one(function: Any, scale: Scale) -> None:
    contract = measure(with_preprocessing(function), ModelRequest("m"))
    assert contract.scale == scale
    assert contract.facts["scale"].how is How.FOUND


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x * 0.999,
        lambda x: x * 0.5,
        lambda x: x / 1000,
        lambda x: np.clip(x, 0, 1),
        lambda x: x - 1000,
    ],
)
def test_arithmetic_that_fits_no_range_or_both_is_asked_about(function: Any) -> None:
    with pytest.raises(ExportError, match="tells which pixel values it was trained on") as asked:
        measure(with_preprocessing(function), ModelRequest("m"))
    assert "With 0..1, a white image is class" in asked.value.message
    assert "with 0..255, a white image is class" in asked.value.message
    assert "--scale" in (asked.value.hint or "")


def test_a_shape_taken_from_the_image_is_not_the_image() -> None:
    nodes = [
        Node(Op.SHAPE, ["images"], ["sizes"], "Shape"),
        Node(Op.MULTIPLY, ["images", "factor"], ["scaled"], "Mul"),
        Node(Op.MOVE, ["scaled", "sizes"], ["flat"], "Reshape"),
        Node(Op.LINEAR, ["flat", "weights"], ["out"], "MatMul"),
    ]
    graph = Graph(nodes, "images", "out", {}, lambda *_: None)
    assert graph.preprocessing() == (("Mul",), ("flat",))


def test_a_branch_that_takes_the_pixels_as_they_are_is_seen() -> None:
    nodes = [
        Node(Op.MULTIPLY, ["images", "factor"], ["scaled"], "Mul"),
        Node(Op.LINEAR, ["scaled", "weights"], ["left"], "Conv"),
        Node(Op.LINEAR, ["images", "weights"], ["right"], "Conv"),
        Node(Op.ADD, ["left", "right"], ["out"], "Add"),
    ]
    graph = Graph(nodes, "images", "out", {}, lambda *_: None)
    assert graph.preprocessing() == (("Mul",), ("scaled", "images"))


@pytest.mark.parametrize(
    ("ops", "constants", "bounds", "is_weighted"),
    [
        ((Op.LINEAR, Op.ADD), (0, 1), ANYTHING, True),
        ((Op.LINEAR, Op.MEAN, Op.MOVE), (), ANYTHING, True),
        ((Op.LINEAR, Op.CLIP), (), ANYTHING, False),
        ((Op.OTHER, Op.ADD), (0, 1), ANYTHING, False),
    ],
)
def test_what_makes_the_output_is_found_behind_what_moves_it(
    ops: tuple[Op, ...], constants: tuple[float, ...], bounds: Bounds, *, is_weighted: bool
) -> None:
    graph = chain(*ops, constants=constants)
    assert graph.bounds() == bounds
    assert graph.ends_in_weights() is is_weighted


def test_bounds_follow_the_arithmetic_behind_a_clip() -> None:
    nodes = [
        Node(Op.LINEAR, ["images", "weights"], ["logit"], "MatMul"),
        Node(Op.CLIP, ["logit"], ["kept"], "Relu6", (0, 6)),
        Node(Op.DIVIDE, ["kept", "six"], ["share"], "RealDiv"),
        Node(Op.SUBTRACT, ["one", "share"], ["other"], "Sub"),
        Node(Op.MOVE, ["share", "other"], ["out"], "ConcatV2"),
    ]
    constants = {"six": (6.0, 6.0), "one": (1.0, 1.0)}
    graph = Graph(nodes, "images", "out", constants, lambda *_: None)
    assert graph.bounds() == (0, 1)
    assert not graph.ends_in_weights()
