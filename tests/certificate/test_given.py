"""Golden inputs that the user gives to an export."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, save

from mlserve.artifact import Artifact
from mlserve.certificate.golden import read_golden
from mlserve.errors import ExportError, MlserveError, UsageError
from mlserve.export import export
from mlserve.sources import Kind, ModelRequest
from tests.harness.small_network import request_for

pytestmark = pytest.mark.framework


def names(artifact: Artifact) -> list[str]:
    return [case.name for case in read_golden(artifact.path)]


def exported(request: ModelRequest, tmp_path: Path) -> Artifact:
    return export(request, "onnxruntime", store=tmp_path / "store")


def test_a_folder_of_images(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "more").mkdir(parents=True)
    packaged = Path(str(files("mlserve.certificate").joinpath("images")))
    shutil.copy(packaged / "cat.jpg", own / "b.jpg")
    shutil.copy(packaged / "cup.png", own / "more" / "a.png")
    request = request_for(tmp_path, scale=(0.0, 1.0), golden=own)
    assert names(exported(request, tmp_path)) == ["b.jpg", "more/a.png"]
    (own / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(ExportError, match=r"the golden image bad\.jpg cannot be answered"):
        exported(request, tmp_path)
    with pytest.raises(UsageError, match=r"--golden .* does not exist"):
        exported(request_for(tmp_path, scale=(0.0, 1.0), golden=tmp_path / "gone"), tmp_path)


def doubler(
    tmp_path: Path, operation: str = "Add", sent: tuple[str, ...] = ("x", "x"), **options: Any
) -> ModelRequest:
    """Return the request for a model of float[N, 2] that doubles its input, or does as asked."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "twice")
    ]
    nodes = [helper.make_node(operation, sent, ["twice"])]
    graph = helper.make_graph(nodes, "doubler", ends[:1], ends[1:])
    path = tmp_path / "doubler.onnx"
    opset = helper.make_operatorsetid("", 17)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return ModelRequest("doubler", str(path), kind=Kind.TENSORS, **options)


def test_rows_of_a_table_evenly_spread(tmp_path: Path) -> None:
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.arange(400, dtype=np.float32).reshape(200, 2))
    artifact = exported(doubler(tmp_path, golden=rows), tmp_path)
    cases = read_golden(artifact.path)
    assert len(cases) == 64
    np.testing.assert_array_equal(cases[0].expected["twice"], [[0, 2]])
    np.testing.assert_array_equal(cases[-1].expected["twice"], [[796, 798]])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rows.csv", "x\n1\n", "rows.csv"),
        ("rows.jsonl", '{"y": [1, 2]}\n', "rows.jsonl"),
        ("rows.txt", "1 2\n", "is not a table of rows"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, file: str, content: str, message: str) -> None:
    rows = tmp_path / file
    rows.write_text(content)
    with pytest.raises(MlserveError, match=message):
        exported(doubler(tmp_path, golden=rows), tmp_path)
    assert not list((tmp_path / "store").rglob("1"))


def test_scores_below_zero_allow_what_others_do(tmp_path: Path) -> None:
    """Those of log_softmax: the largest of them says nothing of their size."""
    request = request_for(tmp_path, scale=(0.0, 1.0))
    network = load(str(tmp_path / "network.onnx"))
    network.graph.node[-1].output[0] = "before"
    network.graph.node.append(helper.make_node("LogSoftmax", ["before"], ["logits"], axis=1))
    save(network, str(tmp_path / "network.onnx"))
    artifact = exported(replace(request, activation="none"), tmp_path)
    assert artifact.manifest is not None
    certificate = artifact.manifest.certificate
    assert certificate is not None
    assert (read_golden(artifact.path)[0].expected["scores"] < 0).all()
    assert certificate.tolerance >= 3e-5


def test_a_golden_image_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.jpg"
    own.write_bytes(b"...")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == own:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"own\.jpg cannot be read: Permission denied"):
        exported(request_for(tmp_path, scale=(0.0, 1.0), golden=own), tmp_path)


def test_answers_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.array([[4, -1], [9, 4]], np.float32))
    artifact = exported(doubler(tmp_path, "Sqrt", ("x",), golden=rows), tmp_path)
    assert artifact.manifest is not None
    told = "1 of 2 golden inputs with NaN or infinity"
    assert told in artifact.manifest.facts["certificate"].warning
    np.save(rows, np.abs(np.load(rows)))
    artifact = exported(doubler(tmp_path, "Sqrt", ("x",), golden=rows), tmp_path)
    assert artifact.manifest is not None
    assert "certificate" not in artifact.manifest.facts
