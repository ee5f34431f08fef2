"""Where mlserve keeps its files: whether they can be written, their size, the room that is left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from mlserve import paths
from mlserve.doctor.finding import Finding, Status
from mlserve.errors import MlserveError
from mlserve.launch.plan import exported

AREA = "files"
_ROOM = 2 * 2**30
"""Bytes that a download, its export and a build of an image need, with some to spare."""
_LEAST_ROOM = 200 * 2**20
_COUNT_SECONDS = 1.0
_ELSEWHERE = "set the rights, or put mlserve's files elsewhere with MLSERVE_HOME"


def look() -> Iterator[Finding]:
    """Findings on the store, the downloads and the records."""
    for name, path in (
        ("store", paths.store_dir()),
        ("downloads", paths.cache_dir()),
        ("records", paths.state_dir()),
    ):
        yield _folder(name, path)
    yield _exported()


def _folder(name: str, path: Path) -> Finding:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    size, is_whole = _size(path)
    counted = f"{'' if is_whole else 'over '}{_mib(size)}" if path.exists() else "not there yet"
    text = f"{path}: {counted}, {_mib(free)} free"
    data = {"path": str(path), "bytes": size, "free": free}
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(AREA, name, Status.FAIL, f"{text}, cannot be written", _ELSEWHERE, data)
    if free < _ROOM:
        status = Status.FAIL if free < _LEAST_ROOM else Status.WARN
        fix = "make room there, or put mlserve's files on another disk with MLSERVE_HOME"
        return Finding(AREA, name, status, text, fix, data)
    return Finding(AREA, name, Status.OK, text, data=data)


def _exported() -> Finding:
    try:
        models = [f"{model} ({backend})" for backend, model in exported()]
    except MlserveError as error:
        return Finding(AREA, "models", Status.FAIL, error.message, error.hint)
    text = ", ".join(models) or "none has been exported yet"
    return Finding(AREA, "models", Status.OK, text, None if models else "mlserve export")


def _size(folder: Path) -> tuple[int, bool]:
    """The bytes in a folder, and whether all were counted in the time there is for it."""
    give_up = time.monotonic() + _COUNT_SECONDS
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:
                continue  # it went away while we looked
        if time.monotonic() > give_up:
            return total, False
    return total, True


def _mib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
