"""The artifact store: `<store>/<backend>/<model>/<version>/`.

The manifest `mlserve.json` and `labels.txt` lie inside the version folder, beside the runtime's own
files, so that one rename publishes everything or nothing. TensorFlow Serving reads only
saved_model.pb, variables/, assets/ and assets.extra/ there, and skips entries of the model's folder
whose names are not numbers.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlserve import paths
from mlserve.artifact import Artifact, folders_by_version, version_folder
from mlserve.errors import ExportError, NotFound, UsageError
from mlserve.incoming import Incoming, incoming_folder
from mlserve.pin import read_pin, unpin_hint

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
NEXT_NUMBER = "leave --version out to take the next number; remove the folder if it is not wanted"
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Store:
    """The exported models under `root`, by default the user's own store."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = paths.expanded(paths.store_dir() if root is None else root).absolute()

    def base_path(self, backend: str, model: str) -> Path:
        """Return the folder that holds the version folders of a model.

        Raises UsageError for a name that is unsafe as a folder name.
        """
        return self.root / check_name("backend", backend) / check_name("model", model)

    def backends(self) -> list[str]:
        """Return the backends that models were exported for, sorted. Raises UsageError."""
        return _folders(self.root)

    def models(self, backend: str) -> list[str]:
        """Return the models with at least one version for that backend, sorted."""
        folders = _folders(self.root / check_name("backend", backend))
        return [name for name in folders if self.versions(backend, name)]

    def exported(self) -> list[tuple[str, str]]:
        """Return the backend and model of each exported model, by name. Raises UsageError."""
        return [(backend, model) for backend in self.backends() for model in self.models(backend)]

    def versions(self, backend: str, model: str) -> list[int]:
        """Return the versions of a model, ascending; empty if there are none.

        Raises UsageError (unreadable).
        """
        base_path = self.base_path(backend, model)
        try:
            return list(present_versions(base_path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(base_path, error) from error

    def find(self, backend: str, model: str, version: int | None = None) -> Artifact:
        """Return the artifact of that version, by default of the highest one.

        Raises NotFound, listing what exists instead, and UsageError for an unreadable store.
        """
        versions = self.versions(backend, model)
        if not versions:
            raise self._no_model(backend, model)
        if version is not None and version not in versions:
            raise _no_version(backend, model, version, versions)
        chosen = versions[-1] if version is None else version
        return Artifact.open(self.base_path(backend, model), model, chosen)

    def require_free(
        self, backend: str, model: str, version: int | None, hint: str = NEXT_NUMBER
    ) -> None:
        """Raise ExportError if that version already exists, UsageError if it is invalid.

        None, which stands for the next version, is always free.
        """
        if version is None:
            return
        check_version(version)
        folder = version_folder(self.base_path(backend, model), version)
        if os.path.lexists(folder):
            raise version_taken(folder, hint)

    @contextmanager
    def incoming(self, backend: str, model: str) -> Iterator[Incoming]:
        """Yield a locked, empty folder to write a version into; `Incoming.publish` publishes it.

        It is removed at the end unless it was published, and so are the folders of the model and
        the backend if nothing else is in them. Raises ExportError when the store cannot be written
        or is full.
        """
        base_path = self.base_path(backend, model)
        try:
            with incoming_folder(base_path, drop_empty=(base_path, base_path.parent)) as incoming:
                yield incoming
        except OSError as error:
            if error.errno in _DISK_FAULTS or self._is_about(error.filename):
                raise _not_written(base_path, error) from error
            raise

    def _is_about(self, filename: object) -> bool:
        """Return whether an OSError's path lies in the store, or is a parent of it."""
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
    """Return `name` if it is safe as a folder name and in a URL. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid {what} name",
            hint="use at most 128 letters, digits, `_`, `.` and `-`, and no `.` in front",
        )
    return name


def check_version(version: int) -> int:
    """Return `version` if it is a 63-bit integer. Raises UsageError."""
    if not 0 <= version < 2**63:
        raise UsageError(
            f"{version} is not a version number",
            hint=f"versions are whole numbers from 0 to {2**63 - 1}",
        )
    return version


def present_versions(base_path: Path) -> tuple[int, ...]:
    """Return the version numbers of the folders in `base_path`, ascending. Raises OSError.

    Other entries are ignored.
    """
    return tuple(folders_by_version(base_path))


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions to serve: the given ones, all, or (neither) the `latest` ones.

    The latest and all are followed as version folders come and go. The pin of a model's folder
    takes the place of the latest: see `at`. The version `aside` is for something else, and is
    served so only if there is no other.
    """

    versions: tuple[int, ...] = ()
    serves_all: bool = False
    latest: int = 1
    aside: int | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> VersionPolicy:
        """Parse the values of `--version`: numbers, or `all` alone. Raises UsageError."""
        if list(texts) == ["all"]:
            return cls(serves_all=True)
        for text in texts:
            if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
                raise UsageError(
                    f"{text[:_SHOWN]!r} is not a version",
                    hint="give a number (several: --version 1 --version 2), or --version all",
                )
        return cls(tuple(sorted({check_version(int(text)) for text in texts})))

    @property
    def follows_latest(self) -> bool:
        """Whether no version is named, so that a pin decides."""
        return not (self.versions or self.serves_all)

    def at(self, base_path: Path, present: Sequence[int]) -> VersionPolicy:
        """Return the policy for that folder, with its pin if it has one and no version is named.

        Raises NotFound if the pinned version is not present, UsageError for an unreadable pin.
        """
        pin = read_pin(base_path) if self.follows_latest else None
        if pin is None:
            return self
        if pin not in present:
            there = ", ".join(map(str, present)) or "none"
            raise NotFound(
                f"{base_path} has no version {pin}, which is pinned (there: {there})",
                hint=unpin_hint(base_path),
            )
        return VersionPolicy((pin,), aside=self.aside)

    def wanted(self, present: Sequence[int]) -> tuple[int, ...]:
        """Return which of the present versions to serve, in ascending order."""
        others = self._wanted([version for version in present if version != self.aside])
        return others or self._wanted(present)

    def _wanted(self, present: Sequence[int]) -> tuple[int, ...]:
        if self.serves_all:
            return tuple(sorted(present))
        if self.versions:
            return tuple(sorted(set(self.versions) & set(present)))
        return tuple(sorted(present)[-self.latest :])


LATEST_VERSION = VersionPolicy()
_MOST_DIGITS, _SHOWN = 400, 40
"""For parsing versions: with more digits, `int` is slow or raises."""


def version_taken(folder: Path, hint: str = NEXT_NUMBER) -> ExportError:
    """Return the error for a version that already exists."""
    return ExportError(f"version {folder.name} is there already: {folder}", hint=hint)


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders that can be those of backends and models."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if _NAME.fullmatch(e.name) and e.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the store cannot be read: {folder}: {error.strerror}",
        hint="make the folder readable, or choose another with MLSERVE_HOME or --store",
    )


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
