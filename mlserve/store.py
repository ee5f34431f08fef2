"""The artifact store: `<store>/<backend>/<model>/<version>/`, read and written.

The manifest `mlserve.json` and `labels.txt` lie inside the version folder, beside the runtime's own
files, so that one rename publishes everything or nothing. TensorFlow Serving reads only
saved_model.pb, variables/, assets/ and assets.extra/ there, and skips entries of the model's folder
whose names are not numbers, such as a version that is still being written.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlserve import paths
from mlserve.artifact import Artifact
from mlserve.errors import ExportError, NotFound, UsageError
from mlserve.incoming import Incoming, incoming_folder
from mlserve.version_folders import version_folder, version_of

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Store:
    """The exported models under `root`, by default the user's own store."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (paths.store_dir() if root is None else root).expanduser().absolute()

    def base_path(self, backend: str, model: str) -> Path:
        """The folder that holds the version folders of a model.

        Raises UsageError for a name that is no safe folder name.
        """
        return self.root / check_name("backend", backend) / check_name("model", model)

    def backends(self) -> list[str]:
        """The backends that models were exported for, sorted. Raises UsageError (unreadable)."""
        return _folders(self.root)

    def models(self, backend: str) -> list[str]:
        """The models with at least one version for that backend, sorted."""
        folders = _folders(self.root / check_name("backend", backend))
        return [name for name in folders if self.versions(backend, name)]

    def versions(self, backend: str, model: str) -> list[int]:
        """The versions of a model, ascending; empty when there is none."""
        return version_numbers(self.base_path(backend, model))

    def find(self, backend: str, model: str, version: int | None = None) -> Artifact:
        """The artifact of that version, or of the highest one.

        Raises NotFound, saying what there is instead, and UsageError for an unreadable store.
        """
        versions = self.versions(backend, model)
        if not versions:
            raise self._no_model(backend, model)
        if version is not None and version not in versions:
            raise _no_version(backend, model, version, versions)
        chosen = versions[-1] if version is None else version
        return Artifact.open(self.base_path(backend, model), model, chosen)

    def require_free(self, backend: str, model: str, version: int | None) -> None:
        """Raises ExportError when that version is there already, UsageError when it is no version.

        None, which stands for the next version, is always free.
        """
        if version is None:
            return
        check_version(version)
        folder = version_folder(self.base_path(backend, model), version)
        if os.path.lexists(folder):
            raise version_taken(folder)

    @contextmanager
    def incoming(self, backend: str, model: str) -> Iterator[Incoming]:
        """A locked, empty folder to write one version into; `Incoming.publish` makes it a version.

        What was not published at the end, for whatever reason, is removed. Raises ExportError when
        the store cannot be written or is full.
        """
        base_path = self.base_path(backend, model)
        try:
            with incoming_folder(base_path) as incoming:
                yield incoming
        except OSError as error:
            if error.errno in _DISK_FAULTS or self._is_about(error.filename):
                raise _not_written(base_path, error) from error
            raise

    def _is_about(self, filename: object) -> bool:
        """Whether an OSError's path lies in the store, or is a folder that the store lies in."""
        if not isinstance(filename, str | Path):
            return False
        path = Path(filename)
        return path.is_relative_to(self.root) or self.root.is_relative_to(path)

    def _no_model(self, backend: str, model: str) -> NotFound:
        there = ", ".join(self.models(backend)) or "none"
        return NotFound(
            f"no model {model!r} was exported for {backend} in {self.root} (there: {there})",
            hint=f"mlserve export --backend {backend} --model {model}",
        )


def check_name(what: str, name: str) -> str:
    """The name itself, when it is safe as a folder name and in a URL. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no {what} name",
            hint="use at most 128 letters, digits, `_`, `.` and `-`, and no `.` in front",
        )
    return name


def check_version(version: int) -> int:
    """The version itself, when it is a 63-bit integer. Raises UsageError."""
    if not 0 <= version < 2**63:
        raise UsageError(
            f"{version} is not a version number",
            hint=f"versions are whole numbers from 0 to {2**63 - 1}",
        )
    return version


def version_numbers(base_path: Path) -> list[int]:
    """The numbers of the version folders in `base_path`, ascending. Raises UsageError."""
    found = map(version_of, _folders(base_path))
    return sorted({version for version in found if version is not None})


def version_taken(folder: Path) -> ExportError:
    """The error for a version that exists already."""
    return ExportError(
        f"version {folder.name} is there already: {folder}",
        hint="leave --version out to take the next number; remove the folder if it is not wanted",
    )


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"the store cannot be read: {folder}: {error.strerror}",
            hint="make the folder readable, or choose another with MLSERVE_HOME or --store",
        ) from error


def _no_version(backend: str, model: str, version: int, there: list[int]) -> NotFound:
    listed = ", ".join(str(number) for number in there)
    return NotFound(
        f"no version {version} of {model!r} was exported for {backend} (there: {listed})",
        hint=f"mlserve export --backend {backend} --model {model} --version {version}",
    )


def _not_written(base_path: Path, error: OSError) -> ExportError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExportError(
            f"no space left to write the model in {base_path}",
            hint="make room there, or choose another folder with --store DIR or MLSERVE_HOME",
        )
    return ExportError(
        f"the store cannot be written: {error.filename or base_path}: {error.strerror}",
        hint="make the folder writable, or choose another with --store DIR or MLSERVE_HOME",
    )
