"""Write a version folder aside and publish it by one rename; take one away the same way.

A version is written into a folder that no server looks into. Its writer holds a `flock` on it,
which the kernel drops however the writer ends: a folder whose lock is free was left by a killed
process, and the next writer removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

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
        sync_tree(self.path)
        try:
            self.path.rename(folder)
        except OSError as error:
            if error.errno in _TAKEN:
                raise VersionExists(folder) from error
            raise
        self.path, self.is_published = folder, True
        sync(folder.parent)
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


def discard(folder: Path) -> None:
    """Remove a version's folder; of a link, only the link. Raises OSError.

    It is renamed first, so that it is gone at once and a half-removed version never looks whole:
    what a killed process leaves is removed by the next writer.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes along with the new name
        aside = folder.rename(folder.with_name(PREFIX + secrets.token_hex(8)))
        sync(folder.parent)
        shutil.rmtree(aside)
    finally:
        os.close(lock)


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


def sync_tree(folder: Path) -> None:
    """Write a folder and everything in it to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def sync(path: Path) -> None:
    """Write a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
