"""The artifact store: `<store>/<backend>/<model>/<version>/`, read and written.

The manifest `mlserve.json` and `labels.txt` lie inside the version folder, beside the runtime's own
files, so that one rename publishes everything or nothing. TensorFlow Serving reads only
saved_model.pb, variables/, assets/ and assets.extra/ there, and skips entries of the model's folder
whose names are not numbers.

A version is written into such a folder, so no server looks into it. The writer holds a `flock` on
it, which the kernel drops however the writer ends: a folder whose lock is free was left by a killed
process, and the next writer removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mlserve import paths
from mlserve.artifact import Artifact, folders_by_version, version_folder
from mlserve.errors import ExportError, NotFound, UsageError

PREFIX = ".incoming-"
_ATTEMPTS = 100
"""To create a folder that failing exports remove meanwhile; four of them needed six at most."""
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


class VersionExists(Exception):
    """The requested version already has a folder."""


class Incoming:
    """An empty folder `path` beside the version folders of a model, to write a version into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_published = False

    def publish(self, version: int) -> Path:
        """Rename the folder to that version, safe against power loss; return its new path.

        Raises VersionExists, and leaves that version unchanged, if there is one.
        """
        folder = self.path.with_name(str(version))
        # A rename silently replaces an empty folder (but no other), so check first.
        if os.path.lexists(folder):
            raise VersionExists(folder)
        _sync_tree(self.path)
        try:
            self.path.rename(folder)
        except OSError as error:
            if error.errno in _TAKEN:
                raise VersionExists(folder) from error
            raise
        self.path, self.is_published = folder, True
        _sync(folder.parent)
        return folder


@contextmanager
def incoming_folder(base_path: Path, *, drop_empty: Sequence[Path] = ()) -> Iterator[Incoming]:
    """Create a locked `Incoming` in `base_path`; remove it at the end unless it was published.

    Then those of the folders `drop_empty` that are empty are removed, in that order. SIGTERM inside
    the block ends the process cleanly (exit code 143): nothing stays behind.
    """
    with _sigterm_unwinds():
        try:
            sweep(base_path)
            path, lock = _create_locked(base_path)
            incoming = Incoming(path)
            try:
                yield incoming
            finally:
                if not incoming.is_published:
                    shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
        finally:
            for folder in drop_empty:
                with suppress(OSError):  # most often it is not empty: a version is in it
                    folder.rmdir()


def sweep(base_path: Path) -> None:
    """Remove the folders that killed writers left in `base_path`."""
    try:
        left = list(base_path.glob(PREFIX + "*"))
    except FileNotFoundError:  # an export that failed has just removed it
        return
    for path in left:
        lock = _try_lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _create_locked(base_path: Path) -> tuple[Path, int]:
    while True:
        path = _create(base_path)
        lock = _try_lock(path)
        # A sweep can remove the folder between the two lines above: then try another.
        if lock is not None and path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _create(base_path: Path) -> Path:
    for attempt in range(_ATTEMPTS):
        path = base_path / (PREFIX + secrets.token_hex(8))
        try:
            base_path.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except (FileNotFoundError, FileExistsError):
            # An export that failed just now may have removed a folder between two of the calls. Of
            # a path that cannot be created at all, the last attempt says so.
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return path
    raise AssertionError(base_path)


def _try_lock(path: Path) -> int | None:
    """Return an open descriptor that holds the lock of `path`; None if it is taken or gone.

    Also None for what no writer of ours leaves: a link, or a file. It is not ours to remove.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, _exit_in_order)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_in_order(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Store:
    """The exported models under `root`, by default the user's own store."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (paths.store_dir() if root is None else root).expanduser().absolute()

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

    def require_free(self, backend: str, model: str, version: int | None) -> None:
        """Raise ExportError if that version already exists, UsageError if it is invalid.

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

    The latest and all are followed as version folders come and go.
    """

    versions: tuple[int, ...] = ()
    serves_all: bool = False
    latest: int = 1

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

    def wanted(self, present: Sequence[int]) -> tuple[int, ...]:
        """Return which of the present versions to serve, in ascending order."""
        if self.serves_all:
            return tuple(sorted(present))
        if self.versions:
            return tuple(sorted(set(self.versions) & set(present)))
        return tuple(sorted(present)[-self.latest :])


LATEST_VERSION = VersionPolicy()
_MOST_DIGITS, _SHOWN = 400, 40
"""For parsing versions: with more digits, `int` is slow or raises."""


def version_taken(folder: Path) -> ExportError:
    """Return the error for a version that already exists."""
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
