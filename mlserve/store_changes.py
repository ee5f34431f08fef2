"""Remove versions from the store, and copy them within it or to another one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlserve.artifact import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Artifact,
    json_of,
    read_plain,
    version_folder,
)
from mlserve.digests import file_names
from mlserve.errors import UsageError
from mlserve.incoming import VersionExists, discard
from mlserve.inventory import ModelFolder, StoredVersion, VersionState
from mlserve.pin import PIN_NAME
from mlserve.store import Store, present_versions, version_taken

_OTHER_NUMBER = "give the copy another number, --to-version N, or another name, --to-model NAME"
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}
"""Why a file system makes no hard link; the file is copied then."""


def remove(folder: ModelFolder, version: int) -> None:
    """Remove a version. It is gone at once: whatever ends this half-way, no half of it is listed.

    The folders of the model and the backend go with the last version, and so does its pin. Raises
    UsageError if it cannot be removed.
    """
    path = version_folder(folder.base_path, version)
    try:
        discard(path)
    except FileNotFoundError:
        folder.version(version)  # raises NotFound, listing the others
        raise
    except BlockingIOError as error:
        raise UsageError(
            f"{path} is being removed by another command", hint="wait until that has ended"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be removed: {error.strerror or error}",
            hint="make the folder writable, or run this as the user who exported the model",
        ) from error
    if not present_versions(folder.base_path):
        _remove_empty(folder.base_path)


def _remove_empty(base_path: Path) -> None:
    with suppress(OSError):  # another export may be writing into it
        if {entry.name for entry in base_path.iterdir()} <= {PIN_NAME}:
            (base_path / PIN_NAME).unlink(missing_ok=True)
            base_path.rmdir()
            base_path.parent.rmdir()


def surplus(
    versions: Sequence[StoredVersion], keep: int, in_use: Sequence[int]
) -> list[StoredVersion]:
    """Return the versions to remove so that the `keep` highest whole ones are left, ascending.

    What is pinned or in use stays too, and so does what cannot be judged: a version that is being
    copied, or that a newer mlserve wrote.
    """
    judged = [v for v in versions if v.state not in (VersionState.INCOMPLETE, VersionState.NEWER)]
    whole = [v for v in judged if v.state is VersionState.WHOLE]
    kept = {v.artifact.version for v in whole[max(0, len(whole) - keep) :]} | set(in_use)
    return [v for v in judged if v.artifact.version not in kept and not v.is_pinned]


def copy(
    source: StoredVersion,
    store: Store,
    *,
    model: str | None = None,
    version: int | None = None,
    links: bool = True,
) -> Artifact:
    """Copy a version to `store`, under another name or number if given; return the copy.

    It is written aside and appears whole, after its digests were checked, and replaces nothing. One
    of another name has another manifest, so it is not signed. With `links`, files are hard links
    where the file system allows: they take no room, and stay when the other version is removed.
    Raises ModelLoadFailed if the version is damaged or incomplete, UsageError for one that a newer
    mlserve wrote or that cannot be read, ExportError if the copy exists or cannot be written.
    """
    source.require_complete()
    artifact = Artifact.open(
        source.artifact.path.parent, source.artifact.model, source.artifact.version
    )
    name = model or artifact.model
    number = artifact.version if version is None else version
    store.require_free(source.backend, name, number, _OTHER_NUMBER)
    with store.incoming(source.backend, name) as incoming:
        for file in file_names(artifact.path):
            if file == SIGNATURE_NAME and name != artifact.model:
                continue
            (incoming.path / file).parent.mkdir(parents=True, exist_ok=True)
            _copy_readable(artifact.path / file, incoming.path / file, links=links)
        if name != artifact.model:
            _write_manifest(artifact, incoming.path, name)
        copied = Artifact(incoming.path, name, number, artifact.manifest)
        artifact.require_none(copied.file_faults())
        try:
            published = incoming.publish(number)
        except VersionExists as error:
            folder = store.base_path(source.backend, name) / str(number)
            raise version_taken(folder, _OTHER_NUMBER) from error
    return Artifact.open(published.parent, name, number)


def _copy_readable(source: Path, target: Path, *, links: bool) -> None:
    try:
        _copy_file(source, target, links=links)
    except OSError as error:
        if os.access(source, os.R_OK):
            raise
        raise UsageError(
            f"{source} cannot be read: {error.strerror}",
            hint="make it readable, or remove it if it does not belong to the model",
        ) from error


def _copy_file(source: Path, target: Path, *, links: bool) -> None:
    if links:
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        else:
            return
    shutil.copyfile(source, target)


def _write_manifest(artifact: Artifact, into: Path, model: str) -> None:
    """Write the manifest anew, with the name of the copy: never into a hard link."""
    if artifact.manifest is None:
        return
    data = json_of(read_plain(artifact.path / MANIFEST_NAME))
    path = into / MANIFEST_NAME
    path.unlink()
    path.write_text(json.dumps(data | {"model": model}, indent=2) + "\n")
