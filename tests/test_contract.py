"""One Keras model in four forms: `.keras`, `.h5`, SavedModel folder, ONNX file.

Whatever the form, the export finds the same scale, activation, size and classes, or stops and asks
for the flag. What it finds gives the answers of the Keras model itself, fed as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_models.framework import framework_imports
from mlserve_models.plugin import mlserve_model_sources as tensorflow_sources
from mlserve_onnxruntime.plugin import mlserve_model_sources as onnx_sources
from PIL import Image

from mlserve import plugins
from mlserve.contract import RAW, SYMMETRIC, UNIT, Scale
from mlserve.errors import ExportError
from mlserve.export import export, no_progress
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, How, ModelRequest
from mlserve.testing.images import saved

pytestmark = [
    pytest.mark.tensorflow,
    # Keras 3.15 asks NumPy for an array in a way that NumPy 2.4 will not take for ever.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SIZE = 12
FORMS = ("keras", "h5", "folder", "onnx")
K = Any
"""The module `keras`."""


@dataclass(frozen=True)
class Case:
    """A model, and what is true of it.

    `is_asked` says that only the user knows the scale, `in_h5` that Keras itself can open its own
    `.h5` file: of models with plain operations in them it writes files that it cannot read.
    """

    build: Callable[[K, Any], Any]
    scale: Scale
    activation: Activation
    is_asked: bool = False
    in_h5: bool = True
    units: int = 3


def _conv(keras: K, x: Any) -> Any:
    return keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))


def _rescaling_layer(keras: K, x: Any) -> Any:
    x = _conv(keras, keras.layers.Rescaling(1 / 255)(x))
    return keras.layers.Dense(3, activation="softmax")(x)


def _symmetric_rescaling_and_logits(keras: K, x: Any) -> Any:
    return keras.layers.Dense(3)(_conv(keras, keras.layers.Rescaling(1 / 127.5, -1)(x)))


def _plain_arithmetic_and_a_softmax_operation(keras: K, x: Any) -> Any:
    return keras.ops.softmax(keras.layers.Dense(3)(_conv(keras, x * (1 / 255) - 0.5)))


def _bgr_with_the_mean_taken_off(keras: K, x: Any) -> Any:
    x = keras.applications.resnet50.preprocess_input(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.SeparableConv2D(4, 3)(x))
    return keras.ops.softmax(keras.layers.Dense(3)(x) / 50)


def _statistics_of_bytes_and_a_sigmoid_operation(keras: K, x: Any) -> Any:
    x = keras.layers.Normalization(mean=[120.0, 115, 100], variance=[3600.0, 3500, 3400])(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3)(x))
    return keras.ops.sigmoid(keras.layers.Dense(1)(x))


def _statistics_of_fractions_and_one_logit(keras: K, x: Any) -> Any:
    x = keras.layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.052, 0.05, 0.05])(x)
    return keras.layers.Dense(1)(_conv(keras, x))


def _a_hub_modules_arithmetic(keras: K, x: Any) -> Any:
    return keras.layers.Dense(3, activation="softmax")(_conv(keras, x * 2.0 - 1.0))


def _a_rescaling_behind_weights(keras: K, x: Any) -> Any:
    x = keras.layers.Rescaling(1 / 255)(keras.layers.SeparableConv2D(4, 3)(x))
    return keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))


def _nothing_but_the_network(keras: K, x: Any) -> Any:
    return keras.layers.Dense(3, activation="softmax")(_conv(keras, x))


def _small_logits(keras: K, x: Any) -> Any:
    small = keras.initializers.RandomUniform(0, 1e-4, seed=1)
    x = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Dense(3, kernel_initializer=small)(x)


def _from_symmetric_to_fractions(keras: K, x: Any) -> Any:
    return keras.layers.Dense(3)(_conv(keras, (x + 1.0) * 0.5))


def _a_network_inside_the_network(keras: K, x: Any) -> Any:
    layers = [keras.layers.Rescaling(1 / 127.5, -1), keras.layers.Conv2D(4, 3)]
    inner = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])
    x = keras.layers.BatchNormalization()(inner(x))
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.layers.Activation("softmax")(x)


def _a_hard_sigmoid(keras: K, x: Any) -> Any:
    x = _conv(keras, keras.layers.Rescaling(1 / 255)(x))
    return keras.layers.Dense(1, activation="hard_sigmoid")(x)


def _the_usual_mean_and_deviation(keras: K, x: Any) -> Any:
    x = (x - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return keras.layers.Softmax()(keras.layers.Dense(3)(_conv(keras, x)))


def _a_fresh_batch_normalization_in_front(keras: K, x: Any) -> Any:
    return keras.layers.Dense(3)(_conv(keras, keras.layers.BatchNormalization()(x)))


def _a_trained_batch_normalization_in_front(keras: K, x: Any) -> Any:
    initial = keras.initializers.Constant
    norm = keras.layers.BatchNormalization(
        moving_mean_initializer=initial(118.0), moving_variance_initializer=initial(4000.0)
    )
    return keras.layers.Dense(3, activation="softmax")(_conv(keras, norm(x)))


def _a_softmax_written_out(keras: K, x: Any) -> Any:
    x = keras.ops.exp(keras.layers.Dense(3)(_conv(keras, keras.layers.Rescaling(1 / 255)(x))) / 50)
    return x / keras.ops.sum(x, axis=-1, keepdims=True)


def _both_classes_of_one_sigmoid(keras: K, x: Any) -> Any:
    x = keras.layers.Dense(1, activation="sigmoid")(
        _conv(keras, keras.layers.Rescaling(1 / 255)(x))
    )
    return keras.ops.concatenate([1.0 - x, x], axis=-1)


CASES = {
    case.build.__name__.lstrip("_"): case
    for case in (
        Case(_rescaling_layer, RAW, Activation.IDENTITY),
        Case(_symmetric_rescaling_and_logits, RAW, Activation.SOFTMAX),
        Case(_plain_arithmetic_and_a_softmax_operation, RAW, Activation.IDENTITY, in_h5=False),
        Case(_bgr_with_the_mean_taken_off, RAW, Activation.IDENTITY, in_h5=False),
        Case(
            _statistics_of_bytes_and_a_sigmoid_operation,
            RAW,
            Activation.COMPLEMENT,
            in_h5=False,
            units=1,
        ),
        Case(_statistics_of_fractions_and_one_logit, UNIT, Activation.SIGMOID, units=1),
        Case(_a_hub_modules_arithmetic, UNIT, Activation.IDENTITY, in_h5=False),
        Case(_a_rescaling_behind_weights, RAW, Activation.IDENTITY, is_asked=True),
        Case(_nothing_but_the_network, SYMMETRIC, Activation.IDENTITY, is_asked=True),
        Case(_small_logits, RAW, Activation.SOFTMAX),
        Case(_from_symmetric_to_fractions, SYMMETRIC, Activation.SOFTMAX, in_h5=False),
        Case(_a_network_inside_the_network, RAW, Activation.IDENTITY),
        Case(_a_hard_sigmoid, RAW, Activation.COMPLEMENT, units=1),
        Case(_the_usual_mean_and_deviation, UNIT, Activation.IDENTITY, in_h5=False),
        Case(_a_fresh_batch_normalization_in_front, UNIT, Activation.SOFTMAX, is_asked=True),
        Case(_a_trained_batch_normalization_in_front, RAW, Activation.IDENTITY),
        Case(_a_softmax_written_out, RAW, Activation.IDENTITY, in_h5=False),
        Case(_both_classes_of_one_sigmoid, RAW, Activation.IDENTITY, in_h5=False, units=2),
    )
}


@dataclass(frozen=True)
class Made:
    """A model and its four files."""

    model: Any
    paths: dict[str, Path]
    labels: Path


@pytest.fixture(scope="module")
def keras() -> Any:
    with framework_imports():
        import keras
    return keras


@pytest.fixture(scope="module", params=CASES)
def made(
    request: pytest.FixtureRequest, keras: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Case, Made]]:
    """Each model once, seeded, saved in its four forms."""
    case = CASES[request.param]
    yield case, save(keras, case.build, tmp_path_factory.mktemp("forms"), case.units)
    keras.backend.clear_session()


def save(keras: Any, build: Callable[[K, Any], Any], folder: Path, units: int) -> Made:
    keras.utils.set_random_seed(7)
    images = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(images, build(keras, images))
    paths = {"keras": folder / "m.keras", "h5": folder / "m.h5"}
    for path in paths.values():
        model.save(path)
    paths |= {"folder": folder / "m", "onnx": folder / "m.onnx"}
    model.export(paths["folder"], verbose=False)
    save_onnx(model, paths["onnx"])
    labels = folder / "labels.txt"
    labels.write_text("".join(f"class {index}\n" for index in range(max(units, 2))))
    return Made(model, paths, labels)


def save_onnx(model: Any, path: Path) -> None:
    """The model through tf2onnx, its variables and captured tensors constants, as users do it."""
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    spec = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32, name="images")
    call = tf.function(lambda images: model(images, training=False), autograph=False)
    frozen = convert_variables_to_constants_v2(call.get_concrete_function(spec))
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[frozen.inputs[0].name],
        output_names=[frozen.outputs[0].name],
        opset=18,
    )
    onnx.save(proto, str(path))


def opened(made: Made, form: str, **options: Any) -> Classifier:
    request = ModelRequest("m", str(made.paths[form]), made.labels, **options)
    sources = [*tensorflow_sources(), *onnx_sources()]
    (source,) = [each for each in sources if each.accepts(request)]
    return source.open(request, no_progress)


def scores(model: Classifier, pixels: Any) -> Any:
    """The scores for uint8 pixels, through what the export found."""
    from mlserve_onnxruntime.sessions import Sessions

    from mlserve.image_pipeline.steps import activated

    images = (pixels * model.pipeline.scale + model.pipeline.offset).astype(np.float32)
    if model.framework == "onnx":
        sessions = Sessions(model.forward, LoadOptions(provider="cpu", threads=1))
        feeds = {sessions.inputs[0].name: images}
        (outputs,) = sessions.run([sessions.outputs[0].name], feeds, None)
    else:
        outputs = model.forward(images).numpy()
    return activated(outputs, model.pipeline.activation)


def true_scores(case: Case, model: Any, pixels: Any) -> Any:
    from mlserve.image_pipeline.steps import activated

    low, high = case.scale
    images = (pixels / 255 * (high - low) + low).astype(np.float32)
    return activated(model(images, training=False).numpy(), case.activation)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_contract_and_the_models_own_answers(
    made: tuple[Case, Made], form: str
) -> None:
    case, files = made
    if form == "h5" and not case.in_h5:
        with pytest.raises(ExportError, match=r"m\.h5 is not .* that can be opened") as refused:
            opened(files, form)
        assert ".keras" in (refused.value.hint or "")
        return
    if case.is_asked:
        with pytest.raises(ExportError, match=r"nothing in .* tells which pixel values") as asked:
            opened(files, form)
        assert "--scale" in (asked.value.hint or "")
        assert "a white image is class" in asked.value.message
        model = opened(files, form, scale=case.scale)
        assert model.facts["scale"].how is How.GIVEN
    else:
        model = opened(files, form)
        assert model.facts["scale"].how is How.FOUND
    pipeline = model.pipeline
    low, high = case.scale
    assert (pipeline.offset, pipeline.offset + 255 * pipeline.scale) == pytest.approx((low, high))
    assert pipeline.activation is case.activation
    assert model.facts["activation"].how is How.FOUND
    assert (pipeline.height, pipeline.width, pipeline.classes) == (SIZE, SIZE, case.units)
    pixels = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float64)
    np.testing.assert_allclose(
        scores(model, pixels), true_scores(case, files.model, pixels), rtol=1e-4, atol=1e-5
    )


def _two_sigmoid_operations(keras: K, x: Any) -> Any:
    return keras.ops.sigmoid(keras.layers.Dense(2)(_rescaled(keras, x)))


def _augmentation(keras: K, x: Any) -> Any:
    x = keras.layers.BatchNormalization()(keras.layers.RandomFlip()(x))
    return keras.layers.Dense(3)(_rescaled(keras, x))


def _rescaled(keras: K, x: Any) -> Any:
    return _conv(keras, keras.layers.Rescaling(1 / 255)(x))


def test_two_sigmoids_are_refused_in_every_form_and_taken_when_asked_for_by_name(
    keras: Any, tmp_path: Path
) -> None:
    made = save(keras, _two_sigmoid_operations, tmp_path, 2)
    for form in ("keras", "folder", "onnx"):
        with pytest.raises(ExportError, match=r"2 outputs .* independent probabilities") as refused:
            opened(made, form)
        assert "--activation none" in (refused.value.hint or "")
        model = opened(made, form, activation="none")
        assert model.pipeline.activation is Activation.IDENTITY
        assert model.facts["activation"].how is How.GIVEN


def test_a_folder_in_which_keras_left_the_augmentation_on_is_refused(
    keras: Any, tmp_path: Path
) -> None:
    """`model.export()` of Keras 3.15 writes a model with RandomFlip in training mode."""
    made = save(keras, _augmentation, tmp_path, 3)
    with pytest.raises(ExportError, match="depends on its neighbours in the batch") as refused:
        opened(made, "folder")
    assert "inference" in (refused.value.hint or "")
    for form in ("keras", "h5", "onnx"):
        assert opened(made, form).pipeline.scale == 1


def test_a_scale_that_speaks_against_the_model_is_taken_with_a_warning(
    keras: Any, tmp_path: Path
) -> None:
    made = save(keras, _rescaling_layer, tmp_path, 3)
    for form in FORMS:
        fact = opened(made, form, scale=UNIT).facts["scale"]
        assert fact.how is How.GIVEN
        assert fact.warning.startswith("--scale 0..1 was given, but the model takes 0..255")
        assert not opened(made, form, scale=RAW).facts["scale"].warning
        reversed_scale = opened(made, form, scale=(255.0, 0.0)).facts["scale"]
        assert "turns light pixels dark" in reversed_scale.warning


def test_an_activation_that_speaks_against_the_graph_is_taken_with_a_warning(
    keras: Any, tmp_path: Path
) -> None:
    made = save(keras, _rescaling_layer, tmp_path, 3)
    for form in FORMS:
        model = opened(made, form, activation="softmax")
        assert model.pipeline.activation is Activation.SOFTMAX
        assert "--activation none was expected" in model.facts["activation"].warning


@pytest.mark.parametrize("backend", ["onnxruntime", "tfserving"])
def test_a_model_with_captured_constants_is_exported_and_answers_as_keras_does(
    keras: Any, tmp_path: Path, backend: str
) -> None:
    """`preprocess_input` takes off a mean that is no layer's and no variable's."""
    made = save(keras, _bgr_with_the_mean_taken_off, tmp_path, 3)
    request = ModelRequest("m", str(made.paths["keras"]), made.labels, top_k=3)
    artifact = export(request, backend, store=tmp_path / "store")
    pixels = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    image = saved(Image.fromarray(pixels), "PNG")
    runner = plugins.backend(backend).load(artifact, LoadOptions(threads=1))
    answer = runner.run("top_k", {"image": np.array([image], dtype=object)})
    (expected,) = made.model(pixels[np.newaxis].astype(np.float32), training=False).numpy()
    assert answer["indices"][0].tolist() == np.argsort(-expected).tolist()
    np.testing.assert_allclose(answer["scores"][0], np.sort(expected)[::-1], rtol=1e-4)
