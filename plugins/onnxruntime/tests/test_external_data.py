"""ONNX models whose weights lie beside the file: behind a hub's links, and where they must not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from onnx import TensorProto, helper, numpy_helper

from mlserve.artifact import Artifact
from mlserve.errors import ExportError, ModelLoadFailed
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import ModelRequest
from mlserve.testing.processes import launched

pytestmark = pytest.mark.framework

WEIGHTS = "model.onnx.data"
Laid = Callable[[Path], Path]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder with `model.onnx`, a classifier of mean colours, and its weights beside it."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 8, 8, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    gain = numpy_helper.from_array(np.array([3.0, 3.0, 3.0], np.float32), "gain")
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["means", "gain"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "colours", [pixels], [scores], [gain])
    opset = helper.make_operatorsetid("", 17)
    folder = tmp_path / "plain"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[opset], ir_version=8),
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=0,
    )
    return folder


def as_a_hub_does(plain: Path) -> Path:
    """Every file is a link into a folder of blobs, which are named after their content."""
    blobs, snapshot = plain.parent / "hub" / "blobs", plain.parent / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(plain.iterdir())):
        shutil.copy(file, blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{number}")
    return snapshot


def with_a_link_to_the_weights(plain: Path) -> Path:
    """The model is a file, its weights are a link to another folder."""
    folder = plain.parent / "linked"
    folder.mkdir()
    shutil.copy(plain / "model.onnx", folder)
    (folder / WEIGHTS).symlink_to(plain / WEIGHTS)
    return folder


def with_a_path_out_of_the_folder(plain: Path, location: str = f"../plain/{WEIGHTS}") -> Path:
    """The model file itself names a path that leads out of its folder."""
    model = onnx.load(str(plain / "model.onnx"), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    folder = plain.parent / "hostile"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "a-link").symlink_to(plain / WEIGHTS)  # so that links are looked at, too
    return folder


def request(folder: Path) -> ModelRequest:
    labels = folder.parent / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    weights = str(folder / "model.onnx")
    return ModelRequest(model="colours", weights=weights, labels=labels, scale=(0.0, 1.0))


def served(folder: Path) -> Artifact:
    """The folder as version 1 of a model."""
    base_path = folder.parent / "served"
    base_path.mkdir()
    (base_path / "1").symlink_to(folder)
    return Artifact.open(base_path, "served", 1)


LAID = pytest.mark.parametrize("laid", [as_a_hub_does, with_a_link_to_the_weights])


@LAID
def test_weights_behind_links_are_exported(plain: Path, laid: Laid, tmp_path: Path) -> None:
    folder = laid(plain)
    expected = export(request(plain), "onnxruntime", store=tmp_path / "expected")
    artifact = export(request(folder), "onnxruntime", store=tmp_path / "store")
    assert artifact.manifest is not None
    assert expected.manifest is not None
    assert artifact.manifest.weights_digest == expected.manifest.weights_digest
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions(threads=1))
    assert set(runner.signatures) == {"serving_default", "top_k", "ranking"}


@LAID
def test_weights_behind_links_are_served_as_they_lie(plain: Path, laid: Laid) -> None:
    runner = OnnxRuntimeBackend().load(served(laid(plain)), LoadOptions(threads=1))
    images = np.zeros((1, 8, 8, 3), np.float32)
    images[..., 2] = 1
    scores = runner.run("serving_default", {"pixels": images})["scores"]
    expected = np.exp([0, 0, 3]) / np.exp([0, 0, 3]).sum()
    np.testing.assert_allclose(scores, [expected], rtol=1e-5)


@pytest.mark.server
def test_a_server_answers_with_weights_behind_links(plain: Path) -> None:
    artifact = served(with_a_link_to_the_weights(plain))
    with launched("onnxruntime", artifact, "--threads", "1") as server:
        server.wait_ready()


@pytest.mark.parametrize("location", [f"../plain/{WEIGHTS}", "/etc/passwd", "../../etc/passwd"])
def test_a_path_out_of_the_folder_is_refused(plain: Path, location: str, tmp_path: Path) -> None:
    folder = with_a_path_out_of_the_folder(plain, location)
    with pytest.raises(ExportError) as refused:
        export(request(folder), "onnxruntime", store=tmp_path / "store")
    assert "\n" not in refused.value.message
    with pytest.raises(ModelLoadFailed):
        OnnxRuntimeBackend().load(served(folder), LoadOptions(threads=1))


@pytest.mark.server
def test_weights_that_are_cut_short_or_absent_are_an_error(plain: Path, tmp_path: Path) -> None:
    folder = with_a_link_to_the_weights(plain)
    command = [sys.executable, "-m", "mlserve", "export", "--backend=onnxruntime", "--model=c"]
    for data in (b"1234", None):
        (folder / WEIGHTS).unlink(missing_ok=True)
        if data is not None:
            (folder / WEIGHTS).write_bytes(data)
        done = subprocess.run(
            [*command, "--weights", folder / "model.onnx", "--labels", str(request(folder).labels)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 4
        assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == 1, done.stderr
        assert "Traceback" not in done.stderr
