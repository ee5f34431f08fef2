"""Temporary folders that belong to a process, and are removed after it, at the latest by the next.

A process that is killed cannot remove its own.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

_NAME = re.compile(r"-(\d+)-[^-]*")


def own_folder(prefix: str, root: Path | None = None) -> Path:
    """Make a folder for this process, which only its user may read; remove those left by others.

    `root` None is where the system has temporary files. Raises OSError.
    """
    root = Path(tempfile.gettempdir()) if root is None else root
    for other in root.glob(f"{prefix}-*"):
        _remove_left(other, prefix)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=root))


def _remove_left(folder: Path, prefix: str) -> None:
    found = _NAME.fullmatch(folder.name.removeprefix(prefix))
    with suppress(OSError):
        is_ours = folder.lstat().st_uid == os.getuid()
        if found and is_ours and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)
