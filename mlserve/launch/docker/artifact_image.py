"""Images that hold the files of one version and nothing else, for image volumes of Kubernetes.

Such an image is written here, without a builder, as an OCI image layout. The same version gives
the same bytes everywhere, down to the digest. It is made for several architectures, as a node takes
no image of another one, and they share their only layer.

`/models` in the image is the folder of versions that KServe expects: it holds `<version>/`. A link
`/models/<model>` back to it makes it the folder that images of `mlserve build` have, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from mlserve import __version__
from mlserve.artifact import Artifact
from mlserve.errors import BuildFailed, UsageError
from mlserve.launch.docker import engine

ARCHITECTURES = ("amd64", "arm64")
_OCI = "application/vnd.oci.image"
_LAYER = f"{_OCI}.layer.v1.tar"
_LAYER_NAME = "layer.tar"
_BLOBS = "blobs/sha256"


@dataclass(frozen=True, slots=True)
class ArtifactImage:
    """An image in an OCI image layout: the digest of its index, and its ids by architecture."""

    folder: Path
    tag: str
    digest: str
    ids: Mapping[str, str]
    layer: str


def write_artifact_image(
    artifact: Artifact, tag: str, labels: Mapping[str, str], into: Path
) -> ArtifactImage:
    """Write the image of a version as an OCI image layout into `into`, an empty or absent folder.

    Raises UsageError for a folder that is not empty or cannot be written, and ModelLoadFailed for a
    version whose files are not as exported.
    """
    artifact.require_whole()
    try:
        into.mkdir(parents=True, exist_ok=True)
        if any(into.iterdir()):
            raise UsageError(f"{into} is not empty", hint="give a new folder")
        return _write(artifact, tag, labels, into)
    except OSError as error:
        raise UsageError(
            f"{error.filename or into} cannot be read or written: {error.strerror or error}",
            hint="make room or fix the permissions",
        ) from error


def load(image: ArtifactImage) -> str:
    """Give the image to the container engine, under its tag; return its id there.

    Raises NoEngine, and BuildFailed if the engine does not take it.
    """
    architecture = engine.engine_info().architecture
    identity = image.ids.get(architecture, image.ids[ARCHITECTURES[0]])
    command = engine.argv("load", "--quiet")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it says why it reads no further
            _write_archive(image, identity, process.stdin)
            process.stdin.close()
        said = process.stdout.read().decode(errors="replace").strip()
    if process.returncode != 0:
        refused = engine.refusal(("load",), said)
        if isinstance(refused, engine.NoEngine):
            raise refused
        raise BuildFailed(
            f"the container engine does not take the image {image.tag}: {said}",
            hint="--file-only DIR writes it as an OCI image layout, for other tools",
        )
    return identity


def _write(artifact: Artifact, tag: str, labels: Mapping[str, str], into: Path) -> ArtifactImage:
    blobs = into / _BLOBS
    blobs.mkdir(parents=True)
    created = _created(artifact)
    layer = _write_layer(artifact, created, blobs)
    manifests, ids = [], {}
    for architecture in ARCHITECTURES:
        config = _blob(blobs, _config(architecture, created, labels, layer["digest"]))
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": {"mediaType": f"{_OCI}.config.v1+json", **config},
            "layers": [{"mediaType": _LAYER, **layer}],
        }
        platform = {"architecture": architecture, "os": "linux"}
        described = {"mediaType": manifest["mediaType"], **_blob(blobs, manifest)}
        manifests.append({**described, "platform": platform})
        ids[architecture] = config["digest"]
    index = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.index.v1+json",
        "manifests": manifests,
        "annotations": dict(sorted(labels.items())),
    }
    whole = _blob(blobs, index)
    named = {"org.opencontainers.image.ref.name": tag}
    top = {"mediaType": index["mediaType"], **whole, "annotations": named}
    (into / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [top]}))
    (into / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return ArtifactImage(into, tag, whole["digest"], ids, layer["digest"])


def _config(
    architecture: str, created: datetime, labels: Mapping[str, str], layer: str
) -> dict[str, Any]:
    when = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "architecture": architecture,
        "os": "linux",
        "created": when,
        "config": {"Labels": dict(sorted(labels.items()))},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": when, "created_by": f"mlserve {__version__}"}],
    }


def _write_layer(artifact: Artifact, created: datetime, blobs: Path) -> dict[str, Any]:
    """Write the only layer; return its digest and its size. It is not compressed.

    Weights hardly get smaller, and then the digest does not depend on a compressor.
    """
    aside = blobs / _LAYER_NAME
    with tarfile.open(aside, mode="x", format=tarfile.PAX_FORMAT) as tar:
        for name, path in _members(artifact):
            _add(tar, name, path, created)
    with aside.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = aside.stat().st_size
    aside.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "size": size}


def _members(artifact: Artifact) -> Iterator[tuple[str, Path | str]]:
    """Yield what the layer holds: a path for what is copied, a text for where a link goes."""
    folder = f"models/{artifact.version}"
    yield "models", artifact.path
    yield folder, artifact.path
    for path in sorted(artifact.path.rglob("*")):
        yield f"{folder}/{path.relative_to(artifact.path).as_posix()}", path
    if not artifact.model.isdecimal():  # which would be taken for a version
        yield f"models/{artifact.model}", "."


def _add(tar: tarfile.TarFile, name: str, source: Path | str, created: datetime) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime = int(created.timestamp())
    if isinstance(source, str):
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, source, 0o777
        tar.addfile(entry)
    elif source.is_dir():
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    else:
        entry.size, entry.mode = source.stat().st_size, 0o644
        with source.open("rb") as file:
            tar.addfile(entry, file)


def _created(artifact: Artifact) -> datetime:
    """Return when the version was exported; the beginning of time for one of another maker."""
    if artifact.manifest is None:
        return datetime.fromtimestamp(0, UTC)
    when = datetime.fromisoformat(artifact.manifest.created)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _blob(blobs: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write JSON under its digest; return that and its size."""
    text = _json(data)
    digest = hashlib.sha256(text).hexdigest()
    (blobs / digest).write_bytes(text)
    return {"digest": f"sha256:{digest}", "size": len(text)}


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _write_archive(image: ArtifactImage, identity: str, to: IO[bytes]) -> None:
    """Write the archive that `docker load` reads, of every version: of one architecture."""
    described = [
        {"Config": _place(identity), "RepoTags": [image.tag], "Layers": [_place(image.layer)]}
    ]
    with tarfile.open(fileobj=to, mode="w|") as tar:
        for name in (_place(identity), _place(image.layer)):
            tar.add(image.folder / name, arcname=name, recursive=False)
        text = _json(described)
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))


def _place(digest: str) -> str:
    return f"{_BLOBS}/{digest.removeprefix('sha256:')}"
