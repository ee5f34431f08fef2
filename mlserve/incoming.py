"""A version that is being written: a hidden, locked folder that becomes a version by one rename.

Its name is no number, so no server looks into it. The writer holds a `flock` on it; the kernel
drops that lock however the writer ends, so a folder whose lock is free was left by a process that
was killed, and the next writer removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

PREFIX = ".incoming-"
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


class VersionExists(Exception):
    """The folder of the version that was asked for is there already."""


class Incoming:
    """An empty folder `path` beside the version folders of a model, to write a version into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_published = False

    def publish(self, version: int) -> Path:
        """Makes the folder that version, safe against a power cut; returns its new path.

        Raises VersionExists, and leaves that version as it is, when there is one.
        """
        folder = self.path.with_name(str(version))
        # A rename replaces an empty folder, and only that, without a word: look before it.
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
def incoming_folder(base_path: Path) -> Iterator[Incoming]:
    """A new, locked `Incoming` in `base_path`; it is removed at the end unless it was published.

    SIGTERM inside the block ends the process in order (exit code 143): nothing stays behind.
    """
    base_path.mkdir(parents=True, exist_ok=True)
    sweep(base_path)
    with _sigterm_unwinds():
        path, lock = _create_locked(base_path)
        incoming = Incoming(path)
        try:
            yield incoming
        finally:
            if not incoming.is_published:
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def sweep(base_path: Path) -> None:
    """Removes the folders that killed writers left in `base_path`."""
    for path in base_path.glob(PREFIX + "*"):
        lock = _try_lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _create_locked(base_path: Path) -> tuple[Path, int]:
    while True:
        path = base_path / (PREFIX + secrets.token_hex(8))
        path.mkdir()
        lock = _try_lock(path)
        # A sweep can come between the two lines above and take the folder: then try another.
        if lock is not None and path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _try_lock(path: Path) -> int | None:
    """An open descriptor that holds the lock of `path`; None when another has it or it is gone.

    None as well for what no writer of ours leaves: a link, or a file. It is not ours to remove.
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
