"""Exports through tf2onnx: the same numbers as TensorFlow's, under the names that are promised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend

from mlserve import plugins
from mlserve.errors import ExportError, UsageError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, ModelRequest
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import colour_classifier
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.tensorflow


def module(function: Callable[[Any], Any]) -> Any:
    """A `tf.Module` that does what `function` does."""
    import tensorflow as tf

    class Forward(tf.Module):  # type: ignore[misc]
        def __call__(self, pixels: Any) -> Any:
            return function(pixels)

    return Forward()


def convolution(pixels: Any) -> Any:
    import tensorflow as tf

    weights = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 5)).astype(np.float32)
    maps = tf.nn.relu6(tf.nn.conv2d(pixels, weights, 2, "SAME"))
    return tf.reduce_mean(maps, [1, 2])


LABELS = ("a", "b", "c", "d", "e")


@pytest.fixture
def network() -> Classifier:
    return colour_classifier(module(convolution), LABELS, classes=5, height=31, width=17)


def test_the_file_says_what_it_takes_and_gives(network: Classifier, tmp_path: Path) -> None:
    OnnxRuntimeBackend().export(network, tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import if not opset.domain] == [
        ("", 18)
    ]
    (image,), (output,) = model.graph.input, model.graph.output
    sizes = [size.dim_param or size.dim_value for size in image.type.tensor_type.shape.dim]
    assert (image.name, sizes) == ("images", ["N", 31, 17, 3])
    assert output.name == "logits"


def test_probabilities_are_called_scores(tmp_path: Path) -> None:
    import tensorflow as tf

    model = colour_classifier(
        module(lambda pixels: tf.nn.softmax(tf.reduce_mean(pixels, [1, 2]))),
        activation=Activation.IDENTITY,
    )
    OnnxRuntimeBackend().export(model, tmp_path)
    assert onnx.load(str(tmp_path / "model.onnx")).graph.output[0].name == "scores"


def test_both_backends_agree_at_every_step(network: Classifier, tmp_path: Path) -> None:
    images = [saved(noise(90, 70)), saved(noise(20, 31, 1), "PNG"), saved(noise(64, 64, 4))]
    first, second = (
        plugins.backend(name).stages(
            exported(name, network, tmp_path / name / "net"), LoadOptions(threads=1)
        )
        for name in ("onnxruntime", "tfserving")
    )
    for image in images:
        np.testing.assert_array_equal(first.decoded(image), second.decoded(image))
        np.testing.assert_array_equal(first.resized(image), second.resized(image))
        np.testing.assert_allclose(first.scores(image), second.scores(image), atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "units"), [(Activation.SIGMOID, "logit"), (Activation.COMPLEMENT, "chance")]
)
def test_a_binary_model_has_two_scores(activation: Activation, units: str, tmp_path: Path) -> None:
    import tensorflow as tf

    def one(pixels: Any) -> Any:
        value = tf.reduce_mean(pixels, [1, 2])[:, :1]
        return value * 300 - 150 if units == "logit" else value

    model = colour_classifier(module(one), ("good", "bad"), activation=activation, classes=1)
    artifact = exported("onnxruntime", model, tmp_path / "binary")
    steps = OnnxRuntimeBackend().stages(artifact, LoadOptions())
    for colour, score in ((0, 0.0), (255, 1.0)):
        from PIL import Image

        plain = saved(Image.new("RGB", (8, 8), (colour, 0, 0)), "PNG")
        np.testing.assert_allclose(steps.scores(plain), [1 - score, score], atol=1e-6)


def test_outputs_that_are_no_numbers_are_not_published(tmp_path: Path) -> None:
    import tensorflow as tf

    broken = module(lambda pixels: tf.reduce_mean(pixels, [1, 2]) * float("nan"))
    with pytest.raises(ExportError, match="not finite numbers"):
        OnnxRuntimeBackend().export(colour_classifier(broken), tmp_path)


def test_an_operation_without_a_counterpart_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    model = module(lambda pixels: tf.math.bessel_i0e(tf.reduce_mean(pixels, [1, 2])))
    with pytest.raises(ExportError, match="BesselI0e") as refused:
        OnnxRuntimeBackend().export(colour_classifier(model), tmp_path)
    assert "--backend tfserving" in (refused.value.hint or "")


def test_tfserving_takes_no_onnx_file(mean_colours: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    request = ModelRequest("m", weights=str(mean_colours), labels=labels)
    with pytest.raises(UsageError, match="which the backend 'tfserving' does not take") as refused:
        export(request, "tfserving", store=tmp_path / "store")
    assert "--backend onnxruntime" in (refused.value.hint or "")
    assert not (tmp_path / "store").exists()
