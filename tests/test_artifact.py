"""The manifest and the labels of an artifact: what is written is what is read, or is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.artifact import (
    LABELS_JSON_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    Artifact,
    Manifest,
    NewerManifest,
    digest_of,
    labels_text,
)
from mlserve.errors import ModelLoadFailed, UsageError
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.sources import Fact, How, Kind
from mlserve.tensors import Signature, TensorSpec


def put(folder: Path, name: str, content: bytes) -> Artifact:
    folder.mkdir(exist_ok=True)
    for known in (LABELS_NAME, LABELS_JSON_NAME):
        (folder / known).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return Artifact(folder, "m", 1, None)


@given(labels=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_labels_are_read_as_they_were_written(
    labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    has_break = any("\n" in label for label in labels)
    name = LABELS_JSON_NAME if has_break else LABELS_NAME
    folder = tmp_path_factory.getbasetemp() / "labels"
    assert put(folder, name, labels_text(labels)).labels() == tuple(labels)


def test_a_label_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    artifact = put(tmp_path / "1", LABELS_NAME, b"ox\ncaf\xe9\nzebra\n")
    with pytest.raises(UsageError, match=r"label 1 in .*labels.txt is not UTF-8: b'caf\\xe9'"):
        artifact.labels()


@pytest.mark.parametrize("content", [b"{", b'{"0": "ox"}', b"[1]"])
def test_labels_that_are_not_a_list_of_strings_are_refused(tmp_path: Path, content: bytes) -> None:
    artifact = put(tmp_path / "1", LABELS_JSON_NAME, content)
    with pytest.raises(UsageError, match=r"labels.json is not "):
        artifact.labels()


SIGNATURE = Signature(
    "serving_default",
    (TensorSpec.from_text("x:float32[?,2]"), TensorSpec.from_text("text:bytes[...]")),
    (TensorSpec.from_text("y:int64[?]"),),
)
TABLE = Manifest(
    mlserve="1",
    backend="onnxruntime",
    model="m",
    source="file m.onnx",
    created="2026-01-01T00:00:00+00:00",
    weights_digest="sha256:0",
    labels_digest=None,
    has_random_weights=False,
    pipeline=None,
    signatures=(SIGNATURE,),
    facts={"kind": Fact(How.FOUND, "it has 2 inputs"), "rows": Fact(How.FOUND, "", "they depend")},
    columns={"x": ("width", "height")},
    libraries={"onnx": "1.2"},
    details={"classes": [1, 2]},
    has_dependent_rows=True,
    idempotent=False,
)


def test_a_manifest_of_tensors_is_read_as_it_was_written(tmp_path: Path) -> None:
    TABLE.write(tmp_path, ())
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]
    read = Manifest.read(tmp_path)
    assert read == replace(TABLE, files={})
    assert read.kind is Kind.TENSORS
    assert Artifact(tmp_path, "m", 1, read).labels() == ()
    data = json.loads((tmp_path / MANIFEST_NAME).read_text())
    assert (data["format"], data["kind"], data["pipeline"]) == (3, "tensors", None)


def test_a_manifest_of_format_1_is_read_for_ever(tmp_path: Path) -> None:
    """Its images and labels stand as an mlserve of before models of tensors wrote them."""
    pipeline = ImagePipeline(8, 8, 1 / 255, 0.0, Activation.SOFTMAX, 2)
    written = {
        "format": 1,
        "mlserve": "0.0.1",
        "backend": "tfserving",
        "model": "m",
        "source": "file m.keras",
        "created": "2025-01-01T00:00:00+00:00",
        "weights_digest": "sha256:0",
        "labels_digest": digest_of(b"good\nbad\n"),
        "has_random_weights": False,
        "pipeline": pipeline.to_json(),
        "signatures": [SIGNATURE.to_json()],
    }
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(written))
    (tmp_path / LABELS_NAME).write_bytes(b"good\nbad\n")
    manifest = Manifest.read(tmp_path)
    assert manifest is not None
    assert (manifest.kind, manifest.pipeline) == (Kind.IMAGE_CLASSIFIER, pipeline)
    assert (manifest.facts, manifest.columns, manifest.libraries) == ({}, {}, {})
    assert not manifest.has_dependent_rows
    assert manifest.idempotent
    assert manifest.files is None
    assert Artifact(tmp_path, "m", 1, manifest).labels() == ("good", "bad")


def test_a_manifest_of_a_newer_mlserve_is_refused_by_its_number_and_the_version(
    tmp_path: Path,
) -> None:
    newer = {**TABLE.to_json(), "format": 99, "mlserve": "9.1"}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(newer))
    with pytest.raises(NewerManifest, match=r"a newer mlserve, 9\.1: manifest format 99 is not"):
        Manifest.read(tmp_path)


@pytest.fixture
def version(tmp_path: Path) -> Artifact:
    """A version with a file of its own and one in a folder."""
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(b"weights")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    TABLE.write(tmp_path, ())
    return Artifact(tmp_path, "m", 1, Manifest.read(tmp_path))


def test_the_manifest_lists_every_other_file_with_its_size_and_digest(version: Artifact) -> None:
    listed = json.loads((version.path / MANIFEST_NAME).read_text())["files"]
    assert listed == {
        "model.onnx": {"size": 5, "sha256": hashlib.sha256(b"graph").hexdigest()},
        "variables/data": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
    }
    assert version.file_faults() == {}
    version.require_whole()


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda f: (f / "variables/data").write_bytes(b"weighTs"), "variables/data was changed"),
        (lambda f: (f / "variables/data").write_bytes(b"w"), "variables/data has 1 bytes instead"),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda f: (f / "variables/x").touch(), "variables/x is not an exported file"),
        (lambda f: shutil.rmtree(f / "variables"), "variables/data is missing"),
        (lambda f: _as_pipe(f / "model.onnx"), "model.onnx has 0 bytes instead of 5"),
        (lambda f: _as_broken_link(f / "model.onnx"), "model.onnx cannot be read: No such file"),
    ],
)
def test_a_file_that_is_not_as_exported_is_named(
    version: Artifact, damage: Callable[[Path], object], fault: str
) -> None:
    damage(version.path)
    with pytest.raises(ModelLoadFailed, match=re.escape(f"{version.path}/{fault}")):
        version.require_whole()


def test_hidden_files_of_file_systems_and_desktops_do_no_harm(version: Artifact) -> None:
    (version.path / ".nfs0000001").touch()
    (version.path / "variables" / ".DS_Store").touch()
    version.require_whole()


def test_the_number_of_wrong_files_is_told(version: Artifact) -> None:
    (version.path / "model.onnx").unlink()
    (version.path / "variables/data").unlink()
    with pytest.raises(ModelLoadFailed, match=r"model.onnx is missing \(and 1 more\)"):
        version.require_whole()
    assert list(version.file_faults()) == ["model.onnx", "variables/data"]


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _as_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def test_a_version_without_digests_is_not_checked(version: Artifact) -> None:
    (version.path / "model.onnx").write_bytes(b"other")
    assert version.manifest is not None
    before = replace(version.manifest, files=None)
    Artifact(version.path, "m", 1, before).require_whole()
    Artifact(version.path, "m", 1, None).require_whole()
