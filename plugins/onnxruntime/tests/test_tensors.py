"""ONNX files that are not image classifiers are exported as they are, with their own names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from onnx import TensorProto, helper, numpy_helper

from mlserve.artifact import Artifact
from mlserve.errors import ExportError, UsageError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import How, Kind, ModelRequest

pytestmark = pytest.mark.framework

Value = tuple[str, int, Sequence[Any]]
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    **weights: Any,
) -> Path:
    """Write an ONNX file of these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "own",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opset = helper.make_operatorsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Takes an image of any size; gives boxes, scores and classes of two things found in it."""
    node = helper.make_node
    return write(
        tmp_path / "detector.onnx",
        [
            node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
            node("TopK", ["means", "two"], ["scores", "classes"]),
            node("MatMul", ["means", "corners"], ["flat"]),
            node("Reshape", ["flat", "shape"], ["boxes"]),
        ],
        [("image", FLOAT, ["N", 3, "height", "width"])],
        [("boxes", FLOAT, ["N", 2, 4]), ("scores", FLOAT, ["N", 2]), ("classes", INT64, ["N", 2])],
        two=np.array([2]),
        corners=np.arange(24, dtype=np.float32).reshape(3, 8),
        shape=np.array([-1, 2, 4]),
    )


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of x [N, 3] that gives y = x * weights."""

    def build(name: str = "table.onnx") -> Path:
        nodes = [helper.make_node("Mul", ["x", "weights"], ["y"])]
        weights = np.array([1, 2, 3], np.float32)
        return write(
            tmp_path / name,
            nodes,
            [("x", FLOAT, ["N", 3])],
            [("y", FLOAT, ["N", 3])],
            weights=weights,
        )

    return build


def exported(path: Path, tmp_path: Path, **options: Any) -> Artifact:
    request = ModelRequest("own", weights=str(path), **options)
    return export(request, store=tmp_path / "store")


def run(artifact: Artifact, **inputs: Any) -> Any:
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions(threads=1))
    return runner.run("serving_default", inputs)


def test_a_detector_keeps_its_outputs(detector: Path, tmp_path: Path) -> None:
    artifact = exported(detector, tmp_path)
    assert artifact.manifest is not None
    (signature,) = artifact.manifest.signatures
    assert [str(spec) for spec in (*signature.inputs, *signature.outputs)] == [
        "image: float32[?,3,?,?]",
        "boxes: float32[?,2,4]",
        "scores: float32[?,2]",
        "classes: int64[?,2]",
    ]
    assert artifact.manifest.backend == "onnxruntime"
    assert "has 3 outputs, not one: boxes float" in artifact.manifest.facts["kind"].why
    assert artifact.manifest.facts["rows"].how is How.FOUND
    assert sorted(path.name for path in artifact.path.iterdir()) == [
        "golden",
        "mlserve.json",
        "model.onnx",
    ]
    image = np.zeros((1, 3, 5, 7), np.float32)
    image[0, 2] = 1
    answer = run(artifact, image=image)
    assert answer["classes"][0, 0] == 2
    np.testing.assert_allclose(answer["boxes"][0, 1], [20, 21, 22, 23])


def test_strings_in_and_out(tmp_path: Path) -> None:
    node = helper.make_node("StringNormalizer", ["words"], ["clean"], stopwords=["the"], locale="C")
    values = [("words", STRING, ["N"])], [("clean", STRING, ["M"])]
    artifact = exported(write(tmp_path / "words.onnx", [node], *values), tmp_path)
    assert artifact.manifest is not None
    assert str(artifact.manifest.signatures[0].inputs[0]) == "words: bytes[?]"
    words = np.array([b"the", b"horse"], dtype=object)
    assert run(artifact, words=words)["clean"].tolist() == [b"horse"]


def test_outputs_that_do_not_follow_the_rows_are_not_stacked(tmp_path: Path) -> None:
    """The words that are left are fewer than the words that were sent."""
    node = helper.make_node("StringNormalizer", ["words"], ["clean"], stopwords=["yes"], locale="C")
    values = [("words", STRING, ["N"])], [("clean", STRING, ["M"])]
    artifact = exported(write(tmp_path / "words.onnx", [node], *values), tmp_path)
    assert artifact.manifest is not None
    assert artifact.manifest.has_dependent_rows


def test_weights_beside_the_file_come_with_it_also_as_links(
    table: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    path = folder / "own.onnx"
    onnx.save(
        onnx.load(str(table())),
        str(path),
        save_as_external_data=True,
        location="own.data",
        size_threshold=0,
    )
    (folder / "own.data").rename(tmp_path / "blob")
    (folder / "own.data").symlink_to(tmp_path / "blob")
    artifact = exported(path, tmp_path)
    (tmp_path / "blob").unlink()
    assert run(artifact, x=np.ones((2, 3), np.float32))["y"].tolist() == [[1, 2, 3]] * 2


def test_the_kind_can_be_given(
    table: Callable[..., Path], mean_colours: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"takes x float\[N,3\], not float\[N,height,width,3\]"):
        exported(table(), tmp_path, kind=Kind.IMAGE_CLASSIFIER)
    with pytest.raises(
        UsageError, match=r"--layout is for image classifiers, and own is not one: "
    ):
        exported(table(), tmp_path, layout="nchw")
    with pytest.raises(ExportError, match="no labels are given") as asked:
        exported(mean_colours, tmp_path, scale=(0.0, 1.0))
    assert "--kind tensors" in str(asked.value.hint)
    artifact = exported(mean_colours, tmp_path, kind=Kind.TENSORS)
    assert artifact.manifest is not None
    assert artifact.manifest.facts["kind"].how is How.GIVEN
    pixels = np.ones((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(run(artifact, pixels=pixels)["scores"], np.ones((2, 3)))


def test_an_input_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=FLOAT)
    path = write(
        tmp_path / "bf.onnx", [node], [("x", TensorProto.BFLOAT16, ["N"])], [("y", FLOAT, ["N"])]
    )
    with pytest.raises(
        ExportError, match=r"its input x bfloat16.* is not a tensor that can be sent"
    ):
        exported(path, tmp_path)


_WITHOUT = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(("tensorflow", "tf2onnx", "keras")))  # imports of them fail
from mlserve_onnxruntime.backend import OnnxRuntimeBackend, OnnxSource
from mlserve.export import no_progress
from mlserve.sources import ModelRequest
model = OnnxSource().open(ModelRequest("own", weights=sys.argv[1]), no_progress)
print(*OnnxRuntimeBackend().export(model, Path(sys.argv[2])))
"""


def test_neither_opening_nor_writing_an_onnx_file_needs_tensorflow(
    table: Callable[..., Path], tmp_path: Path
) -> None:
    into = tmp_path / "into"
    into.mkdir()
    argv = [sys.executable, "-c", _WITHOUT, str(table()), str(into)]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "x" in done.stdout
    assert (into / "model.onnx").is_file()
