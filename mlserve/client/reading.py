"""Reading an image under a deadline: a stalled mount or an unwritten pipe cannot hold it."""

from __future__ import annotations

import asyncio
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from mlserve.client.background import on_daemon_thread
from mlserve.errors import UsageError

Image = str | PathLike[str] | bytes | BinaryIO
"""An image file: its path, its bytes, or an open binary file that is read to its end."""


async def read_image(image: Image) -> bytes:
    """The bytes of the file. Raises UsageError, naming it, when it cannot be read.

    When the caller is cancelled the read goes on by itself and is forgotten.
    """
    if isinstance(image, bytes):
        return image
    return await asyncio.wrap_future(on_daemon_thread(_read, image))


def name_of(image: Image) -> str:
    """What to call the image in a message."""
    if isinstance(image, bytes):
        return "the image"
    if isinstance(image, str | PathLike):
        return str(image)
    return "standard input" if getattr(image, "name", None) == 0 else "the open file"


def _read(image: str | PathLike[str] | BinaryIO) -> bytes:
    try:
        return Path(image).read_bytes() if isinstance(image, str | PathLike) else image.read()
    except OSError as error:
        raise unreadable(image, error) from error


def unreadable(image: Image, error: OSError) -> UsageError:
    """The error for an image that cannot be read."""
    return UsageError(
        f"{name_of(image)} cannot be read: {error.strerror or error}",
        hint="give the path of a JPEG or PNG file, or - for standard input",
    )
