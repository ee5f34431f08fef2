"""What this plugin's tests share: the colour classifier of the suite, as an ONNX file."""

from __future__ import annotations

import pytest

from mlserve.artifact import Artifact
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from tests.harness.onnx_colours import colours, divided_colours, mean_colours, onnx_file

__all__ = ["colours", "divided_colours", "mean_colours", "onnx_file"]


@pytest.fixture(scope="session")
def colours_artifact(colours: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The exported colour classifier."""
    return exported("onnxruntime", colours, tmp_path_factory.mktemp("exported") / "colours")
