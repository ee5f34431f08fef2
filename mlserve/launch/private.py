"""Files of the state folder: for their user alone, whatever the umask, and by nobody else.

What stands in it is believed: which file holds a token, which process to end, which log to show.
So a folder or a record that belongs to another user is refused, never read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import IO, Any

from mlserve import paths
from mlserve.errors import UsageError

_FOLDER = 0o700
_FILE = 0o600
_OTHERS = 0o077


def private_folder(path: Path) -> Path:
    """That folder, made where it is missing, closed to everybody else.

    Raises OSError, and UsageError where it belongs to another user.
    """
    path.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    require_own(path)
    if path.stat().st_mode & _OTHERS:
        path.chmod(_FOLDER)
    return path


def state_folder() -> Path:
    """The state folder, as `private_folder` makes it."""
    return private_folder(paths.state_dir())


def open_private(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Opens a file as `open` does; one that is made can be read by this user alone."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, _FILE), **options)


def require_own(path: Path) -> None:
    """Raises UsageError for a file or folder, or a link to one, that is another user's.

    One that is not there, or cannot be looked at, is for whoever opens it to tell of.
    """
    try:
        owners = {path.lstat().st_uid, path.stat().st_uid}
    except OSError:
        return
    if others := owners - {os.geteuid()}:
        raise UsageError(
            f"{path} belongs to another user (uid {others.pop()}): it is neither read nor written",
            hint="set MLSERVE_HOME to a folder of your own",
        )


def seal(text: str) -> str:
    """What proves that this user's mlserve wrote the text: its HMAC by a key of the state folder.

    The key is made at the first call. Raises OSError, UsageError.
    """
    path = state_folder() / "key"
    try:
        with open_private(path, "xb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        require_own(path)
    return hmac.new(path.read_bytes(), text.encode(), hashlib.sha256).hexdigest()


def is_sealed(text: str, by: str) -> bool:
    """Whether `seal` gave that for the text."""
    return hmac.compare_digest(seal(text), by)
