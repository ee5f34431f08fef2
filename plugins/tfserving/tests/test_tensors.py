"""Models of tensors as SavedModels: the files that TensorFlow reads, and the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend

from mlserve.artifact import Artifact, Manifest
from mlserve.errors import ExportError, UsageError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import How, Kind, ModelRequest
from mlserve.store import Store

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A SavedModel with a variable, a vocabulary file, two signatures, and files of its owner."""
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            words = tmp_path / "words.txt"
            words.write_text("bad\ngood\n")
            lines = tf.lookup.TextFileInitializer(
                str(words),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(lines, -1)
            self.gain = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def index(self, text: Any) -> Any:
            return {"index": self.table.lookup(text)}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def scaled(self, x: Any) -> Any:
            return {"y": x * self.gain}

    module, folder = Module(), tmp_path / "own"
    tf.saved_model.save(
        module, str(folder), {"serving_default": module.scaled, "index": module.index}
    )
    (folder / "README.md").write_text("notes of the owner")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "1").write_text("not for anybody")
    return folder


def exported(path: Path, store: Store, **options: Any) -> tuple[Artifact, Manifest]:
    artifact = export(ModelRequest("own", weights=str(path), **options), store=store.root)
    assert artifact.manifest is not None
    return artifact, artifact.manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(artifact: Artifact, signature: str, **inputs: Any) -> Any:
    runner = TFServingBackend().load(artifact, LoadOptions(threads=1))
    return runner.run(signature, inputs)


def test_what_tensorflow_reads_is_copied_and_nothing_else(saved: Path, store: Store) -> None:
    artifact, manifest = exported(saved, store)
    files = [path for path in artifact.path.rglob("*") if path.is_file()]
    found = {path.relative_to(artifact.path).as_posix() for path in files}
    assert found == {
        "assets/words.txt",
        "fingerprint.pb",
        "golden/golden.json",
        "golden/tensors.npz",
        "mlserve.json",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    }
    assert (manifest.kind, manifest.labels_digest) == (Kind.TENSORS, None)
    assert {signature.name for signature in manifest.signatures} == {"serving_default", "index"}
    assert manifest.facts["rows"].how is How.FOUND
    assert not manifest.has_dependent_rows
    x = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(run(artifact, "serving_default", x=x)["y"], x * 2)
    text = np.array([b"good", b"what"], dtype=object)
    assert run(artifact, "index", text=text)["index"].tolist() == [1, -1]


def test_links_become_the_files_that_they_lead_to(
    saved: Path, store: Store, tmp_path: Path
) -> None:
    """As in the caches of model hubs, whose files are links to content elsewhere."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for index, path in enumerate(sorted(saved.rglob("*.*"))):
        path.rename(blobs / str(index))
        path.symlink_to(blobs / str(index))
    artifact, _ = exported(saved, store)
    assert not [path for path in artifact.path.rglob("*") if path.is_symlink()]
    assert (artifact.path / "assets" / "words.txt").read_text() == "bad\ngood\n"


def test_a_copy_that_lacks_its_variables_is_not_published(saved: Path, store: Store) -> None:
    (saved / "variables" / "variables.index").unlink()
    for kind in (None, Kind.TENSORS):
        with pytest.raises(ExportError) as refused:
            exported(saved, store, kind=kind)
        assert str(saved) in refused.value.message
        assert "variables/ and assets/ included" in str(refused.value.hint)
    assert not list(store.root.rglob("1"))


def test_an_option_of_image_classifiers_is_refused_and_says_why(saved: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="--scale is for image classifiers, and own is not one: "):
        exported(saved, store, scale=(0.0, 1.0))
    assert not list(store.root.rglob("saved_model.pb"))


def test_warm_up_requests_of_the_owner_come_with_it(saved: Path, store: Store) -> None:
    place = saved / "assets.extra" / "tf_serving_warmup_requests"
    place.parent.mkdir()
    place.write_bytes(b"")
    (place.parent / "else").write_text("not for anybody")
    artifact, _ = exported(saved, store)
    assert [path.name for path in (artifact.path / "assets.extra").iterdir()] == [place.name]


def test_rows_that_depend_on_each_other_are_in_the_manifest(store: Store, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    module.centred = tf.function(
        lambda x: {"y": x - tf.reduce_mean(x, axis=0)}, input_signature=[spec], autograph=False
    )
    tf.saved_model.save(module, str(tmp_path / "own"), {"serving_default": module.centred})
    artifact, manifest = exported(tmp_path / "own", store)
    assert manifest.has_dependent_rows
    assert "depends on the rows beside it" in manifest.facts["rows"].warning
    assert Manifest.read(artifact.path) == manifest
