"""The ONNX Runtime backend passes the conformance suite of mlserve, with no TensorFlow at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from mlserve import plugins
from mlserve.load_options import LoadOptions
from mlserve.sources import Classifier
from mlserve.testing import (
    ConformsAsBackend,
    ConformsAsImageClassifier,
    ConformsAsServer,
    KeepsLabels,
    ServesForeignClients,
)
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import colour_classifier, expected_scores
from mlserve.testing.images import decoded, noise, saved

pytestmark = pytest.mark.framework


class _OnnxRuntime:
    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        return "onnxruntime"

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls, colours: Classifier) -> Classifier:
        return colours


class TestBackend(_OnnxRuntime, ConformsAsBackend):
    @pytest.fixture
    def refused(self, classifier: Classifier, tmp_path: Path) -> Classifier:
        """A file that breaks the rules of ONNX: a node reads what nothing gives."""
        model = onnx.load(str(classifier.forward))
        model.graph.node[0].input[0] = "nothing"
        onnx.save(model, str(tmp_path / "refused.onnx"))
        return replace(classifier, forward=tmp_path / "refused.onnx")


class TestImageClassifier(_OnnxRuntime, ConformsAsImageClassifier):
    @pytest.fixture(scope="class")
    @classmethod
    def divided(cls, divided_colours: Classifier) -> Classifier:
        return divided_colours


@pytest.mark.server
class TestServer(_OnnxRuntime, ConformsAsServer, ServesForeignClients):
    pass


class TestLabels(_OnnxRuntime, KeepsLabels):
    pass


@pytest.mark.tensorflow
def test_the_same_model_of_tensorflow_gives_the_same_scores(tmp_path: Path) -> None:
    import tensorflow as tf

    class MeanColours(tf.Module):  # type: ignore[misc]
        def __call__(self, pixels: Any) -> Any:
            return tf.reduce_mean(pixels, [1, 2])

    artifact = exported("onnxruntime", colour_classifier(MeanColours()), tmp_path / "colours")
    image = saved(noise(90, 70))
    stages = plugins.backend("onnxruntime").stages(artifact, LoadOptions())
    assert stages.scores(image) == pytest.approx(expected_scores(decoded(image)), abs=1e-4)
