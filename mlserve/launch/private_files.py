"""Files of the state folder: created for this user alone, and refused if another user owns them.

Their content is trusted: which file holds a token, which process to end, which log to show. So a
folder or a record that belongs to another user is refused, never read, and so is a link to another
file. The check is made on the opened file, because its name may point elsewhere by then.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from mlserve import paths
from mlserve.errors import UsageError

_FOLDER = 0o700
_FILE = 0o600
_OTHERS = 0o077
_KEY_BYTES = 32
_OTHERS_MAY_WRITE = 0o022
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Do not follow links, and do not wait for the other end of a pipe."""


def private_folder(path: Path) -> Path:
    """Return the folder, created if missing, and closed to all other users.

    Parents created on the way are writable by this user alone. Raises OSError, and UsageError if it
    belongs to another user.
    """
    _make_on_the_way(path.parent)
    path.mkdir(mode=_FOLDER, exist_ok=True)
    require_own(path)
    if path.stat().st_mode & _OTHERS:
        path.chmod(_FOLDER)
    return path


def state_folder() -> Path:
    """Return the state folder, as `private_folder` makes it."""
    return private_folder(paths.state_dir())


def _make_on_the_way(folder: Path) -> None:
    if folder.exists():
        return
    _make_on_the_way(folder.parent)
    folder.mkdir(mode=0o777 & ~_OTHERS_MAY_WRITE, exist_ok=True)


def create_private(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Create a file that only this user can read, and open it for writing.

    Anything already there, such as a link planted by someone else, is removed first. Raises
    OSError.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
    return os.fdopen(os.open(path, flags, _FILE), "wb", buffering)


def replace_private(path: Path, text: str) -> None:
    """Write the file as `create_private` does, in one step: it is there whole, or as before.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with create_private(temporary) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def open_own(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open this user's own file with `flags`.

    Raises OSError, and UsageError for another user's file, a link, or anything but a plain file.
    """
    mode = "rb" if flags == os.O_RDONLY else "r+b"
    return open(path, mode, opener=lambda _path, _flags: _open_plain(path, flags))


def _open_plain(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | _SAFELY, _FILE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_taken(f"{path} is a link") from error
        raise
    try:
        _require_plain(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_plain(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _not_taken(f"{path} is not a plain file")
    if found.st_uid != os.geteuid():
        raise _foreign(path, found.st_uid)
    if found.st_nlink > 1:
        raise _not_taken(f"{path} is a link: the file has {found.st_nlink} names")


def require_own(path: Path) -> None:
    """Raise UsageError for another user's file or folder, or a link to one.

    A path that is missing or cannot be examined passes: opening it reports the error.
    """
    try:
        owners = {path.lstat().st_uid, path.stat().st_uid}
    except OSError:
        return
    if others := owners - {os.geteuid()}:
        raise _foreign(path, others.pop())


def _foreign(path: Path, owner: int) -> UsageError:
    return UsageError(
        f"{path} belongs to another user (uid {owner}): it is neither read nor written",
        hint="set MLSERVE_HOME to a folder of your own",
    )


def _not_taken(what: str) -> UsageError:
    return UsageError(
        f"{what}: it is neither read nor written",
        hint="mlserve did not make it: find out who did, and remove it",
    )


def seal(text: str) -> str:
    """Return proof that this user's mlserve wrote the text: an HMAC keyed by the state folder.

    The key is created by the first call. Raises OSError, UsageError.
    """
    with open_own(state_folder() / "key", os.O_RDWR | os.O_CREAT) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # only one of two processes creates it
        key = file.read()
        if len(key) < _KEY_BYTES:
            key = secrets.token_bytes(_KEY_BYTES)
            file.seek(0)
            file.write(key)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_sealed(text: str, by: str) -> bool:
    """Return whether `seal` returned `by` for the text."""
    return hmac.compare_digest(seal(text), by)
