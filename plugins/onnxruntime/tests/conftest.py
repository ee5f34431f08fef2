"""What this plugin's tests share: the colour classifier of the suite, as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mlserve.artifact import Artifact
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import colour_classifier


@pytest.fixture(scope="session")
def mean_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of float32[N, 8, 8, 3] -> float32[N, 3], the mean over the pixels."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 8, 8, 3])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["N", 3])
    mean = helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0)
    graph = helper.make_graph([mean], "mean_colours", [pixels], [means])
    opset = helper.make_operatorsetid("", 17)
    path = tmp_path_factory.mktemp("onnx") / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return path


@pytest.fixture(scope="session")
def colours(mean_colours: Path) -> Classifier:
    """The colour classifier, which no TensorFlow is needed for."""
    return colour_classifier(mean_colours, framework="onnx")


@pytest.fixture(scope="session")
def colours_artifact(colours: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The exported colour classifier."""
    return exported("onnxruntime", colours, tmp_path_factory.mktemp("exported") / "colours")
