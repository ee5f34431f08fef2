"""ONNX files that want to run code: other domains need a library, which is never loaded."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from onnx import TensorProto, helper

from mlserve.artifact import Artifact
from mlserve.errors import ExportError, ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.sources import ModelRequest

pytestmark = pytest.mark.framework


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A model of one operation of a domain of its own, such as the one that runs Python."""
    node = helper.make_node("PyOp", ["x"], ["y"], domain="ai.onnx.contrib", name="runs")
    images, scores = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 4, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
    )
    graph = helper.make_graph([node], "m", [images], [scores])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.contrib", 1)]
    (tmp_path / "1").mkdir()
    path = tmp_path / "1" / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


def test_an_operation_of_another_domain_is_not_served(custom: Path) -> None:
    artifact = Artifact.open(custom.parents[1], "m", 1)
    with pytest.raises(ModelLoadFailed, match=r"ai\.onnx\.contrib"):
        OnnxRuntimeBackend().load(artifact, LoadOptions())


def test_an_operation_of_another_domain_is_not_exported(custom: Path) -> None:
    from mlserve_onnxruntime.onnx_file import open_file

    with pytest.raises(ExportError, match=r"ai\.onnx\.contrib"):
        open_file(custom, ModelRequest("m", weights=str(custom)))
