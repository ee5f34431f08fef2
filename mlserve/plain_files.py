"""Small files of plain data that are not trusted: their size, their kind and their depth."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST = 64 * 2**20
"""The bytes that such a file may have: the labels of a million classes are less."""


def read_plain(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a regular file. Raises OSError, and ValueError for a larger or another one.

    A device gives bytes for ever, and a pipe none until somebody writes: neither is read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB")
    return data


def json_of(text: str | bytes) -> Any:
    """What the text holds as JSON. Raises ValueError, also for a text that is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
