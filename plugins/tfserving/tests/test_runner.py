"""The TensorFlow Runner with SavedModels that mlserve did not export."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend

from mlserve.artifact import LABELS_NAME, MANIFEST_NAME, Artifact
from mlserve.backend import Runner, runs_on
from mlserve.errors import InvalidInput, ModelLoadFailed, Overloaded
from mlserve.load_options import LoadOptions
from mlserve.server.tensors import NUMPY
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.testing.images import plain

pytestmark = pytest.mark.tensorflow

Save = Callable[..., Runner]


def load(base_path: Path) -> Runner:
    return TFServingBackend().load(Artifact.open(base_path, "m", 1), LoadOptions())


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves functions, each with its input specs by name, as signatures, and loads them."""
    import tensorflow as tf

    def save_(**functions: tuple[Callable[..., Any], dict[str, tuple[Any, Any]]]) -> Runner:
        module = tf.Module()
        signatures = {}
        for name, (function, inputs) in functions.items():
            specs = {key: tf.TensorSpec(*spec, name=key) for key, spec in inputs.items()}
            traced = tf.function(function, autograph=False).get_concrete_function(**specs)
            signatures[name] = traced
        tf.saved_model.save(module, str(tmp_path / "1"), signatures=signatures)
        return load(tmp_path)

    return save_


def test_a_runner_says_what_it_runs_on(save: Save) -> None:
    import tensorflow as tf

    runner = save(serving_default=(lambda x: {"y": x}, {"x": ([None], tf.float32)}))

    found = runs_on(runner, "tfserving", None)

    assert found.runtime == f"TensorFlow {tf.__version__}"
    if not tf.config.list_physical_devices("GPU"):
        assert (found.precision, found.device) == ("fp32", "CPU")


def test_half_plus_two(save: Save) -> None:
    import tensorflow as tf

    runner = save(serving_default=(lambda x: {"y": x / 2 + 2}, {"x": ([None], tf.float32)}))
    assert runner.signatures == {
        "serving_default": Signature(
            "serving_default",
            (TensorSpec("x", DType.FLOAT32, (None,)),),
            (TensorSpec("y", DType.FLOAT32, (None,)),),
        )
    }
    outputs = runner.run("serving_default", {"x": np.array([1, 2, 5], np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.array([2.5, 3, 4.5], np.float32))


def test_several_signatures_inputs_and_outputs(save: Save) -> None:
    import tensorflow as tf

    two = {"a": ([None, 2], tf.int64), "b": ([None], tf.int64)}
    runner = save(
        both=(lambda a, b: {"sum": tf.reduce_sum(a, 1) + b, "first": a[:, 0]}, two),
        odd=(lambda **inputs: {"not a name": inputs["x"] + 1}, {"x": ([], tf.int32)}),
    )
    outputs = runner.run("both", {"a": np.array([[1, 2], [3, 4]]), "b": np.array([10, 20])})
    np.testing.assert_array_equal(outputs["sum"], [13, 27])
    np.testing.assert_array_equal(outputs["first"], [1, 3])
    scalar = runner.run("odd", {"x": np.array(41, np.int32)})["not a name"]
    assert (scalar.shape, scalar.dtype, scalar) == ((), np.int32, 42)


NUMBERS = [dtype for dtype in DType if dtype is not DType.BYTES]


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.label)
def test_every_number_type_of_unknown_rank_comes_back_as_it_went(save: Save, dtype: DType) -> None:
    import tensorflow as tf

    runner = save(same=(lambda x: {"y": tf.identity(x)}, {"x": (None, dtype.tf_number)}))
    assert runner.signatures["same"].inputs == (TensorSpec("x", dtype, None),)
    for shape in ((), (3,), (0,), (2, 1, 2)):
        sent = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(NUMPY[dtype])
        received = runner.run("same", {"x": sent})["y"]
        assert received.dtype == NUMPY[dtype]
        np.testing.assert_array_equal(received, sent)


def test_strings_are_bytes_of_any_kind(save: Save) -> None:
    import tensorflow as tf

    runner = save(same=(lambda x: {"y": tf.identity(x)}, {"x": (None, tf.string)}))
    sent = np.array([[b"a\0\0", b""], ["ä".encode(), b"\xff\xd8"]], dtype=object)
    received = runner.run("same", {"x": sent})["y"]
    assert received.dtype == object
    assert received.tolist() == sent.tolist()
    assert runner.run("same", {"x": np.array(b"one", dtype=object)})["y"].item() == b"one"


def test_a_savedmodel_of_tensorflow_1(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        y = x * v1.get_variable("a", initializer=0.5) + 2.0
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        signature = v1.saved_model.predict_signature_def({"in": x}, {"out": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    runner = load(tmp_path)
    assert [str(spec) for spec in runner.signatures["serving_default"].inputs] == ["in: float32[?]"]
    outputs = runner.run("serving_default", {"in": np.array([2.0], np.float32)})
    np.testing.assert_array_equal(outputs["out"], [3.0])


def test_an_error_of_the_model_is_one_plain_line(save: Save) -> None:
    import tensorflow as tf

    def positive(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x > 0), ["x too small"])]):
            return {"y": tf.identity(x)}

    runner = save(positive=(positive, {"x": ([None], tf.float32)}))
    with pytest.raises(InvalidInput) as refused:
        runner.run("positive", {"x": np.array([-1], np.float32)})
    assert refused.value.message == ("the model refuses the input: assertion failed: [x too small]")
    assert runner.run("positive", {"x": np.array([1], np.float32)})["y"] == [1]


def test_no_memory_for_a_request_is_overload(save: Save) -> None:
    import tensorflow as tf

    runner = save(zeros=(lambda x: {"y": tf.zeros(x)}, {"x": ([1], tf.int64)}))
    with pytest.raises(Overloaded) as refused:
        runner.run("zeros", {"x": np.array([2**52])})
    assert "\n" not in refused.value.message
    assert runner.run("zeros", {"x": np.array([2])})["y"].shape == (2,)


@pytest.mark.parametrize("content", [None, b"", b"this is no protobuf message"])
def test_a_folder_that_is_no_savedmodel_is_named(tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    if content is not None:
        (folder / "saved_model.pb").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=str(folder)) as failed:
        load(tmp_path)
    assert failed.value.hint
    assert "\n" not in failed.value.message


@pytest.fixture
def copied(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the exported colour classifier's version folder, to damage."""
    folder = tmp_path / "1"
    shutil.copytree(artifact.path, folder)
    return folder


def test_damaged_variables_fail_to_load(copied: Path) -> None:
    (copied / "variables" / "variables.index").write_bytes(b"damaged")
    with pytest.raises(ModelLoadFailed, match="cannot load"):
        load(copied.parent)


def test_changed_labels_fail_to_load(copied: Path) -> None:
    (copied / LABELS_NAME).write_text("green\nred\nblue\n")
    with pytest.raises(ModelLoadFailed, match="was changed after the export"):
        load(copied.parent)


def test_a_manifest_of_another_model_fails_to_load(copied: Path) -> None:
    manifest = copied / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"output_0"', '"label"'))
    with pytest.raises(ModelLoadFailed, match="a different model than its manifest says"):
        load(copied.parent)


def test_a_damaged_warm_up_file_fails_to_load(copied: Path) -> None:
    path = copied / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelLoadFailed, match="warm-up requests"):
        load(copied.parent)


def test_an_artifact_without_a_manifest_is_any_savedmodel(copied: Path) -> None:
    (copied / MANIFEST_NAME).unlink()
    runner = load(copied.parent)
    image = np.array([plain("green")], dtype=object)
    assert runner.run("serving_default", {"image": image})["output_0"].tolist() == [b"green"]


def test_a_closed_runner_lets_the_model_go(copied: Path) -> None:
    runner = load(copied.parent)
    model = weakref.ref(runner._model)  # type: ignore[attr-defined]
    runner.close()
    gc.collect()
    assert model() is None
