"""The files that say who may ask a server, read and checked: first of all its token."""

from __future__ import annotations

import re
from pathlib import Path

from mlserve.errors import UsageError
from mlserve.settings import flag_of

_TOKEN = re.compile(rb"[!-~]{1,4096}")
_OTHERS_MAY_READ = 0o044


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


def is_open_to_others(path: Path) -> bool:
    """Whether others than the file's owner may read it: its group, or every user."""
    return bool(path.stat().st_mode & _OTHERS_MAY_READ)


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
