"""Which configuration file counts, and whether it may be trusted.

The one that is named, else the nearest: `mlserve.toml`, or a `pyproject.toml` with a table
[tool.mlserve], in the current folder or in a parent of it. The search ends at the first folder with
`.git`, or at the home folder. Where there is neither on the way up, only the current folder counts:
the parents, such as `/tmp`, may be anybody's.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mlserve.errors import UsageError
from mlserve.paths import expanded

NAME = "mlserve.toml"
PYPROJECT = "pyproject.toml"
TOOL = ("tool", "mlserve")
"""The table of a pyproject.toml that is mlserve's."""
VARIABLE = "MLSERVE_CONFIG"
"""The environment variable that names the file."""
NO_FILE = "none"
"""Given in place of a file's path: read none."""
_REPOSITORY = ".git"


def candidates(given: str | None) -> list[Path]:
    """Return the files that may be the configuration file, the one that goes first in front.

    A pyproject.toml among them need not have our table. Of a file that is `given` it is not known
    whether it exists.
    """
    if given == NO_FILE:
        return []
    if given:
        return [expanded(given)]
    try:
        start = Path.cwd()
    except FileNotFoundError:  # the current folder has been removed
        return []
    names = [folder / name for folder in _folders(start) for name in (NAME, PYPROJECT)]
    return [path for path in names if path.is_file() and (path.name == NAME or _mentions_us(path))]


def _folders(start: Path) -> tuple[Path, ...]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - the other raises where there is none
    way = (start, *start.parents)
    end = next((i for i, f in enumerate(way) if f == home or (f / _REPOSITORY).exists()), 0)
    return way[: end + 1]


def _mentions_us(pyproject: Path) -> bool:
    """Return whether a pyproject.toml may have our table: most have not, and are not parsed."""
    try:
        return TOOL[-1].encode() in pyproject.read_bytes()
    except OSError:
        return False


def require_trusted(path: Path) -> None:
    """Raise UsageError for a file of another user, or that every user may write.

    It could send a token to another server, or have an untrusted model loaded.
    """
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        reason = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & stat.S_IWOTH:
        reason = "can be written by every user"
    else:
        return
    raise UsageError(
        f"{path} {reason}, so it is not read",
        hint=f"if you trust it: --config {path}; to go without it: --config {NO_FILE}",
    )
