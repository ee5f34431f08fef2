"""A user's own Keras models: what is found out about them, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.errors import ExportError
from mlserve.pipeline import Activation
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Channels
from mlserve.sources import Classifier, Kind

pytestmark = [
    pytest.mark.tensorflow,
    # Keras 3.15 asks NumPy for an array in a way that NumPy 2.4 will not take for ever.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]

Open = Callable[..., Classifier]
Labels = Callable[[int], Path]


@pytest.fixture
def saved(keras: Any, tmp_path: Path) -> Callable[..., Path]:
    """Saves a small classifier; `first` are layers in front, `last` is what follows Dense.

    Unless `first` says otherwise it takes the bytes and scales them itself.
    """

    def save(
        units: int = 3,
        activation: str | None = "softmax",
        *,
        shape: tuple[int | None, ...] = (12, 10, 3),
        first: tuple[Any, ...] | None = None,
        last: tuple[Any, ...] = (),
        name: str = "own.keras",
    ) -> Path:
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input(shape),
                *((layers.Rescaling(1 / 255),) if first is None else first),
                layers.Conv2D(4, 3),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.GlobalAveragePooling2D(),
                layers.Dense(units, activation=activation),
                *last,
            ]
        )
        model.save(tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", ["own.keras", "own.h5", "own.hdf5"])
def test_the_model_in_the_file_is_the_one_that_is_served(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path], keras: Any, name: str
) -> None:
    path = saved(name=name)
    model = open_model("defects", weights=str(path), labels=labels_file(3))
    assert model.name == "defects"
    assert model.source == f"file {path}"
    assert model.labels == ("class 0", "class 1", "class 2")
    assert (model.pipeline.height, model.pipeline.width) == (12, 10)
    images = np.random.default_rng(0).random((2, 12, 10, 3), dtype=np.float32)
    expected = keras.saving.load_model(path)(images, training=False)
    np.testing.assert_allclose(model.forward(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ((3, "softmax"), Activation.IDENTITY),
        ((3, None), Activation.SOFTMAX),
        ((1, "sigmoid"), Activation.COMPLEMENT),
        ((1, None), Activation.SIGMOID),
        ((3, "tanh"), Activation.SOFTMAX),
        ((1, "hard_sigmoid"), Activation.COMPLEMENT),
    ],
)
def test_the_activation_is_told_from_the_last_layer(
    open_model: Open,
    labels_file: Labels,
    saved: Callable[..., Path],
    last: tuple[int, str | None],
    expected: Activation,
) -> None:
    labels = 3 if last[0] == 3 else 2
    model = open_model("defects", weights=str(saved(*last)), labels=labels_file(labels))
    assert model.pipeline.activation is expected
    assert model.pipeline.classes == last[0]
    assert model.pipeline.scored_classes == labels


def test_the_activation_may_be_a_layer_of_its_own(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path], keras: Any
) -> None:
    for layer in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        path = saved(3, None, last=(layer,))
        model = open_model("defects", weights=str(path), labels=labels_file(3))
        assert model.pipeline.activation is Activation.IDENTITY


def test_several_sigmoid_units_are_refused(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path]
) -> None:
    with pytest.raises(ExportError, match=r"3 outputs .* are independent probabilities") as caught:
        open_model("defects", weights=str(saved(3, "sigmoid")), labels=labels_file(3))
    assert "softmax" in str(caught.value.hint)


def test_the_scale_is_found_or_the_users_and_else_asked_for(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path], keras: Any
) -> None:
    def scale(path: Path, **options: Any) -> tuple[float, float]:
        made = open_model("defects", weights=str(path), labels=labels_file(3), **options).pipeline
        return made.scale, made.offset

    with pytest.raises(ExportError, match="tells which pixel values it was trained on") as asked:
        scale(saved(first=()))
    assert "--scale 0..1, -1..1 or 0..255" in (asked.value.hint or "")
    assert scale(saved(first=()), scale=(0.0, 1.0)) == (1 / 255, 0)
    rescaling = (keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 127.5, -1))
    assert scale(saved(first=rescaling)) == (1, 0)
    assert scale(saved(first=(keras.Sequential([*rescaling]),))) == (1, 0)
    assert scale(saved(first=rescaling), scale=(-1.0, 1.0)) == (2 / 255, -1)


def test_a_scale_in_plain_arithmetic_is_seen(
    open_model: Open, labels_file: Labels, keras: Any, tmp_path: Path
) -> None:
    images = keras.Input((8, 8, 3))
    features = keras.layers.Flatten()(images / 127.5 - 1)
    keras.Model(images, keras.layers.Dense(2)(features)).save(tmp_path / "own.keras")
    model = open_model("m", weights=str(tmp_path / "own.keras"), labels=labels_file(2))
    assert model.pipeline.scale == 1


def test_a_grey_model_gets_grey(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path], keras: Any
) -> None:
    path = saved(shape=(8, 8, 1))
    model = open_model("defects", weights=str(path), labels=labels_file(3))
    grey = np.random.default_rng(0).random((2, 8, 8, 1), dtype=np.float32)
    expected = keras.saving.load_model(path)(grey, training=False)
    np.testing.assert_allclose(model.forward(np.repeat(grey, 3, axis=3)), expected, atol=1e-6)
    assert model.pipeline.version == 1
    said = PixelOptions(channels=Channels.GREY)
    model = open_model("defects", weights=str(path), labels=labels_file(3), pixels=said)
    assert model.pipeline.preprocessing.depth == 1
    np.testing.assert_allclose(model.forward(grey), expected, atol=1e-6)


def test_an_open_size_is_the_users(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path]
) -> None:
    path = saved(shape=(None, None, 3))
    model = open_model("defects", weights=str(path), labels=labels_file(3), input_size=20)
    assert (model.pipeline.height, model.pipeline.width) == (20, 20)
    with pytest.raises(ExportError, match="leaves its input size open"):
        open_model("defects", weights=str(path), labels=labels_file(3))


def test_missing_and_wrong_labels(
    open_model: Open, labels_file: Labels, saved: Callable[..., Path]
) -> None:
    with pytest.raises(ExportError, match="3 classes and no labels"):
        open_model("defects", weights=str(saved()))
    with pytest.raises(ExportError, match="3 classes and there are 7 labels"):
        open_model("defects", weights=str(saved()), labels=labels_file(7))


def test_models_of_another_interface_are_refused(
    open_model: Open, keras: Any, tmp_path: Path
) -> None:
    def refusal(inputs: Any, outputs: Any) -> str:
        keras.Model(inputs, outputs).save(tmp_path / "own.keras")
        with pytest.raises(ExportError) as caught:
            open_model("m", weights=str(tmp_path / "own.keras"), kind=Kind.IMAGE_CLASSIFIER)
        return caught.value.message

    layers = keras.layers
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    flat = layers.Flatten()(left)
    both = layers.Dense(2)(layers.Flatten()(layers.Add()([left, right])))
    assert "has 2 inputs: left, right" in refusal([left, right], both)
    two = layers.Dense(2, name="box")(flat), layers.Dense(3, name="probs")(flat)
    assert refusal(left, list(two)).endswith("has 2 outputs: box, probs")
    assert refusal(left, {"a": two[0], "b": two[1]}).endswith("has 2 outputs: a, b")
    assert "output has the shape [?,6,6,4]" in refusal(left, layers.Conv2D(4, 3)(left))
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    whole = layers.Flatten()(layers.Rescaling(1 / 255)(pixels))
    assert "takes uint8" in refusal(pixels, layers.Dense(2)(whole))


def test_a_model_whose_one_output_is_in_a_dict_is_that_output(
    open_model: Open, labels_file: Labels, keras: Any, tmp_path: Path
) -> None:
    pixels = keras.Input((8, 8, 3))
    scores = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(pixels))
    keras.Model(pixels, {"scores": scores}).save(tmp_path / "own.keras")
    model = open_model(
        "m", weights=str(tmp_path / "own.keras"), labels=labels_file(3), scale=(0, 1)
    )
    images = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    expected = keras.Model(pixels, scores)(images)
    np.testing.assert_allclose(model.forward(images), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_file_of_keras_2_gets_a_short_error_and_the_way_on_works(
    open_model: Open, labels_file: Labels, tmp_path: Path
) -> None:
    """Keras 2 writes `groups` into DepthwiseConv2D, which Keras 3 refuses with all its config."""
    tf_keras = pytest.importorskip("tf_keras")
    layers = tf_keras.layers
    inner = tf_keras.Sequential(
        [layers.Input((12, 10, 3)), *(layers.DepthwiseConv2D(1) for _ in range(40))]
    )
    pixels = layers.Input((12, 10, 3))
    pooled = layers.GlobalAveragePooling2D()(inner(pixels))
    path = tmp_path / "old.h5"
    tf_keras.Model(pixels, layers.Dense(3, activation="softmax")(pooled)).save(path)
    with pytest.raises(ExportError) as caught:
        open_model("m", weights=str(path), labels=labels_file(3))
    message, hint = caught.value.message, str(caught.value.hint)
    assert message.startswith(f"{path} is not a Keras model that can be opened: TypeError: ")
    assert "Unrecognized keyword arguments passed to DepthwiseConv2D: {'groups': 1}" in message
    assert len(message) < 1000
    call = re.search(r"tf_keras\.models\.load_model\('old\.h5', .*\)\.export\('DIR'\)", hint)
    assert call
    assert "Keras 2." in hint
    here = call[0].replace("old.h5", str(path)).replace("DIR", str(tmp_path / "saved"))
    exec(here, {"tf_keras": tf_keras})
    model = open_model("m", weights=str(tmp_path / "saved"), labels=labels_file(3), scale=(0, 1))
    assert model.pipeline.classes == 3


def test_a_model_with_code_in_it_is_refused(open_model: Open, keras: Any, tmp_path: Path) -> None:
    layers = [keras.layers.Lambda(lambda images: images[:, 0, 0])]
    keras.Sequential([keras.Input((8, 8, 3)), *layers]).save(tmp_path / "own.keras")
    with pytest.raises(ExportError, match="not a Keras model that can be opened") as caught:
        open_model("m", weights=str(tmp_path / "own.keras"))
    assert "without Lambda layers" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["own.keras", "own.h5"])
def test_a_file_that_is_no_model_is_an_error(open_model: Open, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ExportError, match="not a Keras model that can be opened"):
        open_model("m", weights=str(tmp_path / name))


def test_a_model_can_be_saved_with_its_variables(
    open_model: Open,
    labels_file: Labels,
    saved: Callable[..., Path],
    save_module: Callable[..., Path],
    tf: Any,
) -> None:
    path = saved()
    model = open_model("defects", weights=str(path), labels=labels_file(3))
    shape = [None, 12, 10, 3]
    folder = save_module(path.with_name("out"), model.forward, shape, tracked=model.forward)
    images = np.random.default_rng(0).random((2, 12, 10, 3), dtype=np.float32)
    again = tf.saved_model.load(str(folder))(images)
    np.testing.assert_allclose(again, model.forward(images), atol=1e-6)
