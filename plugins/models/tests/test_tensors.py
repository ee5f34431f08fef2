"""Keras files and SavedModels that are not image classifiers: what they are opened as, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.errors import ExportError
from mlserve.sources import Classifier, How, Kind, TensorModel

pytestmark = [
    pytest.mark.tensorflow,
    # Keras 3.15 asks NumPy for an array in a way that NumPy 2.4 will not take for ever.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
]

Open = Callable[..., Any]


@pytest.fixture
def opened(open_model: Open, tmp_path: Path) -> Callable[..., TensorModel]:
    """Saves a Keras model and opens the file, which gives a model of tensors."""

    def save_and_open(network: Any, **options: Any) -> TensorModel:
        network.save(tmp_path / "own.keras")
        model = open_model("own", weights=str(tmp_path / "own.keras"), **options)
        assert isinstance(model, TensorModel)
        return model

    return save_and_open


def described(model: TensorModel) -> tuple[list[str], list[str]]:
    (signature,) = model.signatures
    assert signature.name == "serving_default"
    return [str(spec) for spec in signature.inputs], [str(spec) for spec in signature.outputs]


def answers(tf: Any, model: TensorModel, **inputs: Any) -> dict[str, Any]:
    """What the SavedModel that was written answers."""
    loaded = tf.saved_model.load(str(model.content))
    served = loaded.signatures["serving_default"]
    outputs = served(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def two_inputs(keras: Any) -> tuple[list[Any], list[Any]]:
    layers = keras.layers
    sizes, words = (
        keras.Input((4,), name="sizes"),
        keras.Input((None,), dtype="int32", name="words"),
    )
    embedded = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4)(words))
    both = layers.Concatenate()([sizes, embedded])
    heads = [layers.Dense(2, name="boxes")(both), layers.Dense(3, name="scores")(both)]
    return [sizes, words], heads


def test_a_table_of_numbers(opened: Any, keras: Any, tf: Any) -> None:
    network = keras.Sequential([keras.Input((4,), name="rows"), keras.layers.Dense(3)])
    model = opened(network)
    assert described(model) == (["rows: float32[?,4]"], ["output_0: float32[?,3]"])
    assert (model.name, model.framework) == ("own", "tensorflow")
    assert model.facts["kind"].how is How.FOUND
    assert (
        "the model's input has the shape [?,4], not [N,height,width,3]" in model.facts["kind"].why
    )
    rows = np.random.default_rng(0).random((5, 4), np.float32)
    np.testing.assert_allclose(answers(tf, model, rows=rows)["output_0"], network(rows), atol=1e-6)


def test_several_inputs_and_outputs_keep_their_names(opened: Any, keras: Any, tf: Any) -> None:
    inputs, outputs = two_inputs(keras)
    network = keras.Model(inputs, outputs)
    model = opened(network)
    assert described(model) == (
        ["sizes: float32[?,4]", "words: int32[?,?]"],
        ["boxes: float32[?,2]", "scores: float32[?,3]"],
    )
    given = {"sizes": np.ones((2, 4), np.float32), "words": np.ones((2, 7), np.int32)}
    boxes, scores = network([given["sizes"], given["words"]])
    found = answers(tf, model, **given)
    np.testing.assert_allclose(found["boxes"], boxes, atol=1e-6)
    np.testing.assert_allclose(found["scores"], scores, atol=1e-6)


def test_dicts_keep_their_keys(opened: Any, keras: Any, tf: Any) -> None:
    (sizes, words), (boxes, scores) = two_inputs(keras)
    network = keras.Model({"z": sizes, "a": words}, {"p": boxes, "b": scores})
    model = opened(network)
    assert described(model) == (
        ["a: int32[?,?]", "z: float32[?,4]"],
        ["b: float32[?,3]", "p: float32[?,2]"],
    )
    given = {"z": np.ones((2, 4), np.float32), "a": np.ones((2, 7), np.int32)}
    expected, found = network(given), answers(tf, model, **given)
    for name in ("p", "b"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_text_with_its_vocabulary_inside(opened: Any, keras: Any, tf: Any) -> None:
    layers = keras.layers
    words = layers.TextVectorization(max_tokens=50, output_sequence_length=6)
    words.adapt(["good morning", "bad evening"])
    text = keras.Input((), dtype="string", name="text")
    mean = layers.GlobalAveragePooling1D()(layers.Embedding(50, 4)(words(text)))
    network = keras.Model(text, layers.Dense(1, activation="sigmoid")(mean))
    model = opened(network)
    assert described(model) == (["text: bytes[?]"], ["output_0: float32[?,1]"])
    texts = ["good morning", "never heard of"]
    expected = network(tf.constant(texts))
    np.testing.assert_allclose(answers(tf, model, text=texts)["output_0"], expected, atol=1e-6)


def test_sequences_of_any_length(opened: Any, keras: Any, tf: Any) -> None:
    steps = keras.Input((None, 3), name="steps")
    network = keras.Model(steps, keras.layers.GRU(4, return_sequences=True)(steps))
    model = opened(network)
    assert described(model) == (["steps: float32[?,?,3]"], ["output_0: float32[?,?,4]"])
    for length in (1, 9):
        given = np.ones((2, length, 3), np.float32)
        found = answers(tf, model, steps=given)["output_0"]
        np.testing.assert_allclose(found, network(given), atol=1e-6)


def test_a_batch_size_that_an_unbuilt_model_was_called_with_stays_open(
    opened: Any, keras: Any
) -> None:
    network = keras.Sequential([keras.layers.Dense(3)])
    network(np.zeros((2, 4), np.float32))
    (rows,), _ = described(opened(network))
    assert rows.endswith(": float32[?,4]")


def test_an_image_model_is_tensors_only_if_asked(
    opened: Any, open_model: Open, keras: Any, tmp_path: Path
) -> None:
    layers = keras.layers
    images = keras.Input((8, 8, 3), name="images")
    network = keras.Model(
        images, layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(images)))
    )
    model = opened(network, kind=Kind.TENSORS)
    assert described(model) == (["images: float32[?,8,8,3]"], ["output_0: float32[?,3]"])
    assert model.facts["kind"].how is How.GIVEN
    path = str(tmp_path / "own.keras")
    with pytest.raises(ExportError, match="no labels are given") as asked:
        open_model("own", weights=path)
    assert "--kind tensors" in str(asked.value.hint)
    for kind in (None, Kind.IMAGE_CLASSIFIER):
        assert isinstance(
            open_model("own", weights=path, labels=("a", "b", "c"), kind=kind), Classifier
        )


def test_a_model_of_masks_is_tensors(opened: Any, keras: Any) -> None:
    images = keras.Input((8, 8, 3))
    model = opened(keras.Model(images, keras.layers.Conv2D(2, 3)(images)))
    assert "the model's output has the shape [?,6,6,2]" in model.facts["kind"].why


@pytest.fixture
def saved(tf: Any, tmp_path: Path) -> Callable[..., Path]:
    """Saves functions of named tensors as the signatures of a SavedModel."""

    def save(**signatures: Any) -> Path:
        module = tf.Module()
        module.functions = {
            name: tf.function(function, input_signature=specs, autograph=False)
            for name, (function, specs) in signatures.items()
        }
        tf.saved_model.save(module, str(tmp_path / "own"), module.functions)
        return tmp_path / "own"

    return save


def test_all_signatures_of_a_savedmodel_are_kept(
    open_model: Open, saved: Any, tf: Any, tar_of: Any
) -> None:
    rows = [tf.TensorSpec([None, 3], tf.float64, name="rows")]
    folder = saved(
        serving_default=(lambda rows: {"sum": tf.reduce_sum(rows, axis=1)}, rows),
        double=(lambda rows: {"twice": rows * 2}, rows),
    )
    archive = folder.with_suffix(".tar.gz")
    archive.write_bytes(tar_of(folder))
    for path in (folder, archive):
        model = open_model("own", weights=str(path))
        assert isinstance(model, TensorModel)
        assert [signature.name for signature in model.signatures] == ["double", "serving_default"]
        assert str(model.signatures[1].outputs[0]) == "sum: float64[?]"
        assert (Path(model.content) / "saved_model.pb").is_file()


def test_a_savedmodel_without_the_usual_signature(open_model: Open, saved: Any, tf: Any) -> None:
    text = [tf.TensorSpec([None], tf.string, name="text")]
    model = open_model("own", weights=str(saved(upper=(lambda text: {"up": text}, text))))
    assert [signature.name for signature in model.signatures] == ["upper"]
    assert "has no signature serving_default" in model.facts["kind"].why


def test_a_savedmodel_of_images_is_tensors_if_asked(open_model: Open, saved: Any, tf: Any) -> None:
    images = [tf.TensorSpec([None, 8, 8, 3], tf.float32, name="images")]
    path = saved(serving_default=(lambda images: {"y": images[:, 0, 0]}, images))
    model = open_model("own", weights=str(path), kind=Kind.TENSORS)
    assert (model.facts["kind"].how, len(model.signatures)) == (How.GIVEN, 1)


def test_unsafe_operations_are_refused_in_tensors_too(
    open_model: Open, saved: Any, tf: Any
) -> None:
    names = [tf.TensorSpec([], tf.string, name="name")]
    path = str(saved(serving_default=(lambda name: {"y": tf.io.read_file(name)}, names)))
    for kind in (None, Kind.TENSORS):
        with pytest.raises(ExportError, match="can do more than compute: ReadFile"):
            open_model("own", weights=path, kind=kind)
    assert open_model("own", weights=path, allow_unsafe_ops=True).signatures


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_savedmodel_is_refused(open_model: Open, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "saved_model.pb").write_bytes(content)
    with pytest.raises(ExportError, match=r"SavedModel .*own (cannot be read|has no signature)"):
        open_model("own", weights=str(tmp_path / "own"), kind=Kind.TENSORS)
