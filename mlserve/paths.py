"""Paths of mlserve's own files: downloads, artifacts, and the record of running servers.

`MLSERVE_HOME`, when set, holds all three; otherwise each is where the platform puts such files.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from mlserve.errors import UsageError

_APP = "mlserve"


def cache_dir() -> Path:
    """Return the folder for downloads, which can be fetched again."""
    return _home("cache") or platformdirs.user_cache_path(_APP)


def store_dir() -> Path:
    """Return the folder for exported models: `<backend>/<model>/<version>/`."""
    return (_home("data") or platformdirs.user_data_path(_APP)) / "models"


def state_dir() -> Path:
    """Return the folder for running servers: a record and a log for each."""
    return _home("state") or platformdirs.user_state_path(_APP)


def expanded(path: Path | str) -> Path:
    """Return the path with the home folder in place of `~` or `~USER`.

    Raises UsageError if there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{path}: the home folder of {Path(path).parts[0]} is not known",
            hint="write the whole path, from / on",
        ) from error


def _home(part: str) -> Path | None:
    home = os.environ.get("MLSERVE_HOME")
    return expanded(home) / part if home else None
