"""The files that say who may ask a server, read and checked: first of all its token."""

from __future__ import annotations

import re
from pathlib import Path

from mlserve.errors import UsageError
from mlserve.settings import flag_of

_TOKEN = re.compile(rb"[!-~]{1,4096}")
_READERS = {0o004: "every user of this machine", 0o040: "every user in its group"}
TOKEN_VARIABLE = "MLSERVE_TOKEN"  # noqa: S105  the name of a variable
"""What a client reads its token from; no server is given it."""


def read_token(path: Path) -> bytes:
    """The token in that file, without white space around it. Raises UsageError."""
    token = read_file("token_file", path).strip()
    if not token:
        raise UsageError(f"{path} ({flag_of('token_file')}) is empty", hint=_MAKE_TOKEN)
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            f"{path} ({flag_of('token_file')}) must hold one token of visible ASCII characters "
            "without spaces, at most 4096",
            hint=_MAKE_TOKEN,
        )
    return token


def other_readers(path: Path) -> str | None:
    """Who beside its owner may read the file; None for nobody."""
    mode = path.stat().st_mode
    return next((who for bit, who in _READERS.items() if mode & bit), None)


def read_file(name: str, path: Path) -> bytes:
    """The content of the file that the setting of that name gives. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} ({flag_of(name)}) cannot be read: {error.strerror or error}",
            hint="give the path of a file that this user may read",
        ) from error


_MAKE_TOKEN = "make one: openssl rand -hex 32 > FILE && chmod 600 FILE"  # noqa: S105 - no token
