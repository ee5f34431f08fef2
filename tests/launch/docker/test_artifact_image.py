"""Images of a version's files alone: their layout, byte for byte, and what is in them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import Artifact
from mlserve.errors import UsageError
from mlserve.launch.docker.artifact_image import ArtifactImage, write_artifact_image
from mlserve.launch.docker.images import artifact_image_tag, artifact_labels, folder_digest
from tests.harness.echo import EchoModel


def _written(folder: Path, model: str, into: str) -> ArtifactImage:
    artifact = Artifact.open(folder / model, model, 3)
    labels = artifact_labels(artifact, "echo")
    tag = artifact_image_tag("echo", model, 3)
    return write_artifact_image(artifact, tag, labels, folder / into)


@pytest.fixture
def image(tmp_path: Path) -> ArtifactImage:
    EchoModel(tmp_path / "m").put(3)
    return _written(tmp_path, "m", "image")


def _blob(image: ArtifactImage, digest: str) -> bytes:
    content = (image.folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    return content


def _read(image: ArtifactImage, described: dict[str, Any]) -> Any:
    content = _blob(image, described["digest"])
    assert len(content) == described["size"]
    return json.loads(content)


def test_a_layout_leads_to_one_layer_for_every_architecture(image: ArtifactImage) -> None:
    assert json.loads((image.folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    [top] = json.loads((image.folder / "index.json").read_text())["manifests"]
    assert top["annotations"] == {"org.opencontainers.image.ref.name": "mlserve-artifact-echo-m:3"}
    assert top["digest"] == image.digest
    manifests = _read(image, top)["manifests"]
    assert [each["platform"]["architecture"] for each in manifests] == ["amd64", "arm64"]
    for described in manifests:
        manifest = _read(image, described)
        config = _read(image, manifest["config"])
        [layer] = manifest["layers"]
        assert config["rootfs"]["diff_ids"] == [layer["digest"]] == [image.layer]
        assert config["architecture"] == described["platform"]["architecture"]
        assert image.ids[config["architecture"]] == manifest["config"]["digest"]
        labels = config["config"]["Labels"]
        assert (labels["mlserve.model"], labels["mlserve.version"]) == ("m", "3")
    used = {path.name for path in (image.folder / "blobs/sha256").iterdir()}
    assert len(used) == 6


def test_the_layer_holds_the_folder_of_versions_by_both_names(
    image: ArtifactImage, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    with tarfile.open(image.folder / "blobs/sha256" / image.layer.removeprefix("sha256:")) as tar:
        assert {(each.uid, each.gid, each.uname) for each in tar} == {(0, 0, "")}
        tar.extractall(root, filter="tar")
    digest = folder_digest(tmp_path / "m" / "3")
    assert folder_digest(root / "models/3") == digest
    assert folder_digest(root / "models/m/3") == digest
    assert sorted(path.name for path in (root / "models").iterdir()) == ["3", "m"]


def test_the_same_version_gives_the_same_bytes(image: ArtifactImage, tmp_path: Path) -> None:
    for path in (tmp_path / "m").rglob("*"):
        path.touch()
        path.chmod(0o700)
    again = _written(tmp_path, "m", "again")
    assert again.digest == image.digest
    with pytest.raises(UsageError, match="is not empty"):
        _written(tmp_path, "m", "again")


def test_a_model_named_like_a_version_has_no_second_name(tmp_path: Path) -> None:
    EchoModel(tmp_path / "7").put(3)
    image = _written(tmp_path, "7", "image")
    layer = image.folder / "blobs/sha256" / image.layer.removeprefix("sha256:")
    with tarfile.open(layer) as tar:
        assert "models/7" not in tar.getnames()
