"""SavedModels of tensors converted to ONNX: the same signature, the same answers, or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime import tensor_exporter
from mlserve_onnxruntime.backend import OnnxRuntimeBackend

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.differences import different_output
from mlserve.errors import ExportError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.probe import made_up_inputs
from mlserve.sources import Kind, ModelRequest

pytestmark = pytest.mark.tensorflow
Save = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Save:
    """Saves functions of named tensors as the signatures of a SavedModel."""
    import tensorflow as tf

    def save(function: Any, *specs: Any, name: str = "serving_default", **others: Any) -> Path:
        module = tf.Module()
        module.gain = tf.Variable(3.0)
        module.functions = {
            key: tf.function(each, input_signature=specs, autograph=False)
            for key, each in {name: function, **others}.items()
        }
        tf.saved_model.save(module, str(tmp_path / "own"), module.functions)
        return tmp_path / "own"

    return save


def exported(path: Path, tmp_path: Path, backend: str, **options: Any) -> Artifact:
    request = ModelRequest("own", weights=str(path), **options)
    return export(request, backend, store=tmp_path / "store")


def both(path: Path, tmp_path: Path, **options: Any) -> tuple[Artifact, Artifact]:
    ours, theirs = (
        exported(path, tmp_path, backend, **options) for backend in ("onnxruntime", "tfserving")
    )
    return ours, theirs


def test_every_type_keeps_its_name_shape_and_answer(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    def mixed(ids: Any, flags: Any, steps: Any, rows: Any) -> Any:
        table = tf.reshape(tf.range(20.0), [2, 10])
        return {
            "embedded": tf.gather(table, ids),
            "best": tf.argmax(rows, axis=1),
            "any": flags,
            "mean": tf.reduce_mean(steps, axis=1) * 3,
            "sum": tf.cast(ids[:, 0], tf.float64) + tf.reduce_sum(rows, axis=1),
        }

    path = saved(
        mixed,
        tf.TensorSpec([None, None], tf.int32, name="ids"),
        tf.TensorSpec([None], tf.bool, name="flags"),
        tf.TensorSpec([None, None, 4], tf.float32, name="steps"),
        tf.TensorSpec([None, 5], tf.float64, name="rows"),
    )
    ours, theirs = both(path, tmp_path)
    assert ours.manifest is not None
    assert theirs.manifest is not None
    assert ours.manifest.signatures == theirs.manifest.signatures
    onnx.checker.check_model(str(ours.path / "model.onnx"), full_check=True)
    (signature,) = ours.manifest.signatures
    runners = [plugins.backend(a.manifest.backend).load(a, LoadOptions()) for a in (ours, theirs)]
    for rows, length in ((4, 3), (1, 9)):
        inputs = made_up_inputs(signature, rows, length)
        found, expected = (runner.run("serving_default", inputs) for runner in runners)
        assert different_output(expected, found, 1e-6) is None


def test_one_signature_is_exported_and_the_others_are_named(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    path = saved(lambda x: {"y": x + 1}, spec, double=lambda x: {"y": x * 2})
    manifest = exported(path, tmp_path, "onnxruntime").manifest
    assert manifest is not None
    assert [signature.name for signature in manifest.signatures] == ["serving_default"]
    assert manifest.facts["omitted"].warning == (
        "the backend onnxruntime does not export the signatures double"
    )
    both_kept = exported(path, tmp_path, "tfserving").manifest
    assert both_kept is not None
    assert "omitted" not in both_kept.facts


def test_the_only_signature_is_served_under_the_usual_name(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    path = saved(lambda x: {"y": -x}, tf.TensorSpec([None], tf.float32, name="x"), name="negate")
    artifact = exported(path, tmp_path, "onnxruntime")
    assert artifact.manifest is not None
    assert "omitted" not in artifact.manifest.facts
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions())
    answer = runner.run("serving_default", {"x": np.array([2.0], np.float32)})
    assert answer["y"].tolist() == [-2.0]


def test_several_signatures_without_the_usual_one_are_refused(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([None], tf.float32, name="x")
    path = saved(lambda x: {"y": -x}, spec, name="negate", double=lambda x: {"y": x * 2})
    with pytest.raises(ExportError, match=r"none of those of own is serving_default .*double, neg"):
        exported(path, tmp_path, "onnxruntime")


def test_a_lookup_of_words_is_left_to_tensorflow(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64))
    table = tf.lookup.StaticHashTable(keys, -1)
    module = tf.Module()
    module.table = table
    module.find = tf.function(
        lambda text: {"id": table.lookup(text)},
        input_signature=[tf.TensorSpec([None], tf.string, name="text")],
        autograph=False,
    )
    path = tmp_path / "words"
    tf.saved_model.save(module, str(path), {"serving_default": module.find})
    with pytest.raises(ExportError, match=r"a table \(LookupTableFindV2\), as TextVect") as refused:
        exported(path, tmp_path, "onnxruntime")
    assert "--backend tfserving" in str(refused.value.hint)
    assert exported(path, tmp_path, "tfserving").manifest is not None


def test_other_answers_than_tensorflows_are_not_published(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    path = saved(lambda x: {"y": x + 1}, spec)
    convert = tensor_exporter.to_onnx

    def wrong(name: str, function: Any) -> Any:
        proto = convert(name, function)
        (add,) = [node for node in proto.graph.node if node.op_type == "Add"]
        add.op_type = "Sub"
        return proto

    monkeypatch.setattr(tensor_exporter, "to_onnx", wrong)
    with pytest.raises(ExportError, match="the output y of the exported own differs from Tensor"):
        exported(path, tmp_path, "onnxruntime")
    assert not list((tmp_path / "store").rglob("model.onnx"))


def test_a_model_that_cannot_be_tried_is_left_to_tensorflow(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    def picky(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(x, 100.0)]):
            return {"y": x * 2}

    path = saved(picky, tf.TensorSpec([None, 2], tf.float32, name="x"))
    with pytest.raises(
        ExportError, match="cannot be compared with TensorFlow, which refuses"
    ) as no:
        exported(path, tmp_path, "onnxruntime")
    assert "--backend tfserving" in str(no.value.hint)


def test_an_image_model_is_converted_as_tensors_if_asked(saved: Save, tmp_path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([None, 8, 8, 3], tf.float32, name="pixels")
    path = saved(lambda pixels: {"means": tf.reduce_mean(pixels, [1, 2])}, spec)
    ours, theirs = both(path, tmp_path, kind=Kind.TENSORS)
    assert ours.manifest is not None
    assert theirs.manifest is not None
    assert ours.manifest.signatures == theirs.manifest.signatures
    assert str(ours.manifest.signatures[0].inputs[0]) == "pixels: float32[?,8,8,3]"


def test_an_optimization_that_fails_is_left_out(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf
    from tf2onnx import optimizer

    tries: list[str] = []

    def broken() -> Any:
        tries.append("once")
        raise ValueError("this optimization is broken")

    monkeypatch.setitem(optimizer._get_optimizers(), "remove_identity", broken)
    path = saved(lambda x: {"y": x * 2}, tf.TensorSpec([None], tf.float32, name="x"))
    artifact = exported(path, tmp_path, "onnxruntime")
    assert len(tries) > 1
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions())
    answer = runner.run("serving_default", {"x": np.array([2.0], np.float32)})
    assert answer["y"].tolist() == [4.0]
