"""The colour classifier of the suite as an ONNX file, for what runs or reads ONNX files.

The fixtures are imported by the conftest.py of a plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from mlserve.pipeline import Activation
from mlserve.sources import Classifier
from mlserve.testing.colours import colour_classifier


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model of these nodes, from `pixels` (float32[N, 8, 8, 3]) to `scores` [N, 3]."""

    def write(*nodes: Any) -> Path:
        pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 8, 8, 3])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
        graph = helper.make_graph(list(nodes), "colours", [pixels], [scores])
        opset = helper.make_operatorsetid("", 17)
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
        return path

    return write


@pytest.fixture(scope="session")
def mean_colours(onnx_file: Callable[..., Path]) -> Path:
    """An ONNX file of float32[N, 8, 8, 3] -> float32[N, 3], the mean over the pixels."""
    return onnx_file(_mean("scores"))


@pytest.fixture(scope="session")
def divided_colours(onnx_file: Callable[..., Path]) -> Classifier:
    """A classifier whose scores are m / m * m of each mean m: NaN where that is 0."""
    ones = helper.make_node("Div", ["means", "means"], ["ones"])
    scores = helper.make_node("Mul", ["ones", "means"], ["scores"])
    path = onnx_file(_mean("means"), ones, scores)
    return colour_classifier(path, framework="onnx", activation=Activation.IDENTITY)


def _mean(output: str) -> Any:
    return helper.make_node("ReduceMean", ["pixels"], [output], axes=[1, 2], keepdims=0)


@pytest.fixture(scope="session")
def colours(mean_colours: Path) -> Classifier:
    """The colour classifier, which no TensorFlow is needed for."""
    return colour_classifier(mean_colours, framework="onnx")
