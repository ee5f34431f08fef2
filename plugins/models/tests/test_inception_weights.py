"""Inception v3 from weights that the user has, and with random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.errors import ExportError
from mlserve.pipeline import Activation
from mlserve.sources import Classifier

pytestmark = [
    pytest.mark.tensorflow,
    # Keras 3.15 asks NumPy for an array in a way that NumPy 2.4 will not take for ever.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]

IMAGES = np.random.default_rng(0).random((2, 299, 299, 3), dtype=np.float32)


def test_random_weights_follow_the_seed(open_model: Callable[..., Classifier]) -> None:
    models = [open_model("inception_v3", weights="random", seed=seed) for seed in (3, 3, 4)]
    first, again, other = (np.asarray(model.forward(IMAGES)) for model in models)
    assert first.shape == (2, 1001)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert models[0].weights_digest == models[1].weights_digest != models[2].weights_digest
    assert all(model.has_random_weights for model in models)
    assert models[0].pipeline.activation is Activation.SOFTMAX
    assert models[0].pipeline.class_offset == 1


@pytest.fixture(scope="module")
def network(keras: Any) -> Any:
    """The network of 1000 classes, with weights by chance. It takes seconds."""
    return keras.applications.InceptionV3(weights=None)


@pytest.mark.parametrize("name", ["inception.weights.h5", "inception.h5"])
def test_weights_in_a_keras_file(
    open_model: Callable[..., Classifier], network: Any, tmp_path: Path, name: str
) -> None:
    save = network.save_weights if "weights" in name else network.save
    save(tmp_path / name)
    model = open_model("inception_v3", weights=str(tmp_path / name))
    np.testing.assert_array_equal(model.forward(IMAGES), network(IMAGES, training=False))
    assert model.pipeline.activation is Activation.IDENTITY
    assert (model.pipeline.classes, model.pipeline.class_offset) == (1000, 0)
    assert (model.pipeline.scale, model.pipeline.offset) == (2 / 255, -1)
    assert not model.has_random_weights


def test_a_module_in_a_tar_file(
    open_model: Callable[..., Classifier], module_tar: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "module.tar.gz"
    path.write_bytes(module_tar)
    model = open_model("inception_v3", weights=str(path))
    assert (model.pipeline.classes, model.pipeline.class_offset) == (1001, 1)
    assert model.source == f"SavedModel {path}"


def test_weights_of_another_network_are_an_error(
    open_model: Callable[..., Classifier], keras: Any, tmp_path: Path
) -> None:
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(ExportError, match=r"not those of keras\.applications\.InceptionV3"):
        open_model("inception_v3", weights=str(path))


def test_a_model_of_another_interface_wants_a_name_of_its_own(
    open_model: Callable[..., Classifier],
    keras: Any,
    save_module: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]).save(
        path
    )
    folder = save_module(tmp_path / "m", lambda images: images[:, 0, 0] - 5, [None, 299, 299, 3])
    for weights in (path, folder):
        with pytest.raises(ExportError) as caught:
            open_model("inception_v3", weights=str(weights))
        assert "--model NAME --labels FILE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.h5", "no file or folder"),
        ("a.pth", "not a kind of weights"),
        ("b.h5", "read as HDF5"),
    ],
)
def test_a_file_of_another_kind_is_an_error(
    open_model: Callable[..., Classifier], tmp_path: Path, name: str, message: str
) -> None:
    for existing in ("a.pth", "b.h5"):
        (tmp_path / existing).write_bytes(b"something else")
    with pytest.raises(ExportError, match=message):
        open_model("inception_v3", weights=str(tmp_path / name))


def test_another_input_size_is_an_error(open_model: Callable[..., Classifier]) -> None:
    with pytest.raises(ExportError, match="takes images of 299x299, not 224"):
        open_model("inception_v3", input_size=224)
