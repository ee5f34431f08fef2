"""The pin of a model: `serving.json` in its folder names the version that servers should serve.

Servers that follow the folder serve that version instead of the latest one, from their next look
on and after a restart, until the pin is changed or removed. It lies beside the version folders, so
that it reaches every server that sees them; TensorFlow Serving skips it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from mlserve.artifact import json_of, read_plain
from mlserve.errors import UsageError, reason_of
from mlserve.incoming import sync
from mlserve.replacing import replacing

PIN_NAME = "serving.json"
_FORMAT = 1
_LARGEST = 4096
"""Bytes; it has fewer than 50."""


def read_pin(base_path: Path) -> int | None:
    """Return the version that is pinned in a model's folder; None if there is no pin.

    Raises UsageError for a pin that cannot be read.
    """
    path = base_path / PIN_NAME
    try:
        data = json_of(read_plain(path, _LARGEST))
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r} is not known")
        if type(data["version"]) is not int:
            raise ValueError(f"{data['version']!r} is not a version")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the pin {path} cannot be read: {reason_of(error)}", hint=unpin_hint(base_path)
        ) from error
    version: int = data["version"]
    return version


def pin_or_none(base_path: Path) -> int | None:
    """Return the pinned version; None if there is no pin, or one that cannot be read."""
    try:
        return read_pin(base_path)
    except UsageError:
        return None


def write_pin(base_path: Path, version: int | None) -> None:
    """Pin that version, or remove the pin, atomically and safe against power loss.

    Raises UsageError if the folder cannot be written.
    """
    path = base_path / PIN_NAME
    try:
        if version is None:
            path.unlink(missing_ok=True)
        else:
            with replacing(path) as file:
                file.write(json.dumps({"format": _FORMAT, "version": version}) + "\n")
        sync(base_path)
    except OSError as error:
        raise UsageError(
            f"the pin {path} cannot be written: {error.strerror or error}",
            hint="make the folder writable, or run this as the user who exported the model",
        ) from error


def unpin_hint(base_path: Path) -> str:
    """Return the command that removes a pin, for a hint."""
    path = shlex.quote(str(base_path))
    return f"to serve the latest version: mlserve models use latest --path {path}"
