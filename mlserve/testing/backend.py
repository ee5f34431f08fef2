"""Conformance tests of every backend: light to import, exports completely, loads only its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Backend
from mlserve.errors import MlserveError, ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.sources import Model
from mlserve.testing.artifacts import exported
from mlserve.testing.given import GivenBackend

HEAVY = frozenset(
    (
        "cv2",
        "httpx",
        "keras",
        "numpy",
        "onnx",
        "onnxruntime",
        "openvino",
        "nncf",
        "PIL",
        "starlette",
        "tensorflow",
        "torch",
    )
)
"""Modules that importing a plugin must not import, besides what its backend requires."""
_LIST_MODULES = """
import sys
from mlserve import plugins
print(plugins.backend(sys.argv[1]).name)
print(*sys.modules)
"""


class ConformsAsLoader(GivenBackend):
    """Tests of every backend's declarations, and of how it loads.

    A backend that only serves overrides `backend_name` and `artifact`.
    """

    @pytest.fixture
    def copied(self, artifact: Artifact, tmp_path: Path) -> Artifact:
        """Return a copy of the artifact for a test to modify."""
        base_path = tmp_path / artifact.model
        shutil.copytree(artifact.path, base_path / str(artifact.version))
        return Artifact.open(base_path, artifact.model, artifact.version)

    def test_it_says_what_it_is(self, backend: Backend, backend_name: str) -> None:
        assert backend.name == backend_name
        assert backend.summary
        assert "\n" not in backend.summary
        assert backend.install_hint.startswith("pip install ")

    def test_importing_the_plugin_imports_nothing_heavy(self, backend: Backend) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _LIST_MODULES, backend.name],
            capture_output=True,
            text=True,
            check=True,
        )
        name, modules = done.stdout.splitlines()
        loaded = {module.partition(".")[0] for module in modules.split()}
        others = {
            point.module.partition(".")[0]
            for plugin, point in plugins.installed().items()
            if plugin != backend.name
        }
        assert name == backend.name
        assert not loaded & {*HEAVY, *backend.requires, *others}

    def test_signatures_are_as_the_manifest_says(
        self, backend: Backend, artifact: Artifact
    ) -> None:
        runner = backend.load(artifact, LoadOptions(threads=1))
        for name, signature in runner.signatures.items():
            assert signature.name == name
        for signature in artifact.manifest.signatures if artifact.manifest else ():
            assert runner.signatures[signature.name] == signature
        runner.close()

    def test_an_artifact_can_be_moved(
        self, backend: Backend, artifact: Artifact, copied: Artifact
    ) -> None:
        moved = copied.path.parent.rename(copied.path.parent.with_name("moved"))
        assert copied.manifest == artifact.manifest
        backend.load(Artifact.open(moved, copied.model, copied.version), LoadOptions()).close()

    def test_an_empty_folder_does_not_load(self, backend: Backend, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        _fails_to_load(backend, Artifact.open(tmp_path, "m", 1))

    def test_damaged_files_do_not_load(self, backend: Backend, copied: Artifact) -> None:
        own = [p for p in copied.path.iterdir() if p.name not in ("mlserve.json", "labels.txt")]
        for path in (file for file in own if file.is_file()):
            path.write_bytes(b"damaged")
        _fails_to_load(backend, copied)


class ConformsAsBackend(ConformsAsLoader):
    """Tests of a backend's export and load. A plugin overrides what `GivenBackend` says."""

    @pytest.fixture
    def refused(self, model: Model) -> Model | None:
        """Return a model whose export must fail; None for a backend that takes any."""
        return None

    def test_an_export_writes_into_its_folder_and_nowhere_else(
        self,
        backend: Backend,
        model: Model,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        into, elsewhere = tmp_path / "into", tmp_path / "elsewhere"
        into.mkdir()
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        signatures = backend.export(model, into)
        assert signatures
        assert any(into.iterdir())
        assert not any(elsewhere.iterdir())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "into"]

    def test_an_export_that_fails_leaves_nothing(
        self, backend_name: str, refused: Model | None, tmp_path: Path
    ) -> None:
        if refused is None:
            pytest.skip("this backend takes any model")
        with pytest.raises(MlserveError) as failed:
            exported(backend_name, refused, tmp_path / "m")
        assert failed.value.hint
        assert list((tmp_path / "m").iterdir()) == []

    def test_what_was_exported_is_one_whole_version(self, artifact: Artifact) -> None:
        assert [path.name for path in artifact.path.parent.iterdir()] == [str(artifact.version)]
        assert artifact.manifest is not None
        assert bool(artifact.labels()) == (artifact.manifest.pipeline is not None)


def _fails_to_load(backend: Backend, artifact: Artifact) -> None:
    with pytest.raises(ModelLoadFailed) as failed:
        backend.load(artifact, LoadOptions())
    assert str(artifact.path) in failed.value.message
    assert "\n" not in failed.value.message
    assert failed.value.hint
