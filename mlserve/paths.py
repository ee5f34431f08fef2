"""Where mlserve keeps its files: downloads, artifacts, and the record of running servers.

`MLSERVE_HOME`, when set, holds all three; else each is where the platform puts such files.

Each plugin calls `confine_frameworks` in its package's `__init__`, which runs before any module of
it, and so before it can import a framework; processes that it starts inherit the settings.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "mlserve"


def cache_dir() -> Path:
    """The folder for downloads, which can be fetched again."""
    return _home("cache") or platformdirs.user_cache_path(_APP)


def store_dir() -> Path:
    """The folder for exported models: `<backend>/<model>/<version>/`."""
    return (_home("data") or platformdirs.user_data_path(_APP)) / "models"


def state_dir() -> Path:
    """The folder for what runs now: a record and a log for each server."""
    return _home("state") or platformdirs.user_state_path(_APP)


def _home(part: str) -> Path | None:
    home = os.environ.get("MLSERVE_HOME")
    return Path(home).expanduser() / part if home else None


def confine_frameworks() -> None:
    """Switches telemetry off, whatever the user set, and puts Keras' folder into our cache.

    ONNX Runtime 1.29 and later keep a device id and a queue of events under ~/.cache/Microsoft on
    Linux unless this variable says otherwise before it is imported. Keras writes ~/.keras when it
    is imported; a KERAS_HOME of the user's own stays.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("KERAS_HOME", str(cache_dir() / "keras"))
