"""Keras classifiers and SavedModels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.errors import ExportError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import Kind, ModelRequest
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((16, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    file = tmp_path_factory.mktemp("keras") / "tiny.keras"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Keras' own use of numpy
        model.save(file)
    return file


def test_a_keras_classifier_answers_as_it_does_in_onnx_runtime(
    keras_file: Path, tmp_path: Path
) -> None:
    request = ModelRequest("tiny", weights=str(keras_file), labels=tuple("abc"), scale=(0.0, 1.0))
    answers = []
    for backend in ("openvino", "onnxruntime"):
        artifact = export(request, backend, store=tmp_path)
        runner = plugins.backend(backend).load(artifact, LoadOptions())
        answers.append(runner.run("ranking", {"image": np.array([saved(noise(40, 30))], object)}))
    assert answers[0]["scores"] == pytest.approx(answers[1]["scores"], abs=1e-5)
    assert (answers[0]["labels"] == answers[1]["labels"]).all()


@pytest.fixture(scope="module")
def module() -> Any:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.random.stateless_normal((4, 3), (0, 1)))

        @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])])
        def scores(self, x: Any, scale: Any) -> Any:
            scores = tf.nn.softmax(tf.matmul(x, self.weights) * scale)
            return {"scores": scores, "best": tf.argmax(scores, axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def length(self, text: Any) -> Any:
            return {"length": tf.strings.length(text)}

    return Module()


def test_a_saved_model_of_tensors_answers_as_tensorflow_does(module: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    folder = tmp_path / "saved"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.scores})
    request = ModelRequest("two", weights=str(folder), kind=Kind.TENSORS)
    artifact = export(request, "openvino", store=tmp_path / "store")
    runner = plugins.backend("openvino").load(artifact, LoadOptions())
    rng = np.random.default_rng(0)
    sent = {"x": rng.random((5, 4), np.float32), "scale": rng.random((5, 1), np.float32)}
    answer = runner.run("serving_default", sent)
    expected = module.scores(**sent)
    assert answer["scores"] == pytest.approx(expected["scores"].numpy(), abs=1e-6)
    assert (answer["best"] == expected["best"].numpy()).all()


def test_text_in_a_saved_model_is_refused(module: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    folder = tmp_path / "saved"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.length})
    request = ModelRequest("text", weights=str(folder), kind=Kind.TENSORS)
    with pytest.raises(ExportError, match="text cannot be converted to OpenVINO"):
        export(request, "openvino", store=tmp_path / "store")
