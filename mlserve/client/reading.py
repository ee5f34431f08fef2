"""Reading an image under a deadline: a stalled mount or an unwritten pipe cannot hold it."""

from __future__ import annotations

import asyncio
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from mlserve.errors import UsageError
from mlserve.system import on_daemon_thread

Image = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""An image file: its path, its bytes, or an open binary file that is read to its end."""
_ENCODE = (
    "encode pixels as a file first: buffer = io.BytesIO(); "
    'PIL.Image.fromarray(pixels).save(buffer, "PNG"); then give buffer.getvalue()'
)


async def read_image(image: Image) -> bytes:
    """The bytes of the file. Raises UsageError, naming it, when it cannot be read or is no file.

    When the caller is cancelled the read goes on by itself and is forgotten.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | PathLike) and not hasattr(image, "read"):
        raise UsageError(
            f"{type(image).__name__} is not an image file: predict takes a path, the bytes of a "
            "JPEG or PNG file, or an open binary file",
            hint=_ENCODE,
        )
    return await asyncio.wrap_future(on_daemon_thread(_read, image))


def name_of(image: Image) -> str:
    """What to call the image in a message."""
    if isinstance(image, bytes | bytearray | memoryview):
        return "the image"
    if isinstance(image, str | PathLike):
        return str(image)
    return "standard input" if getattr(image, "name", None) == 0 else "the open file"


def _read(image: str | PathLike[str] | BinaryIO) -> bytes:
    try:
        data = Path(image).read_bytes() if isinstance(image, str | PathLike) else image.read()
    except (OSError, ValueError) as error:  # a ValueError: a closed file, or a NUL in a path
        raise unreadable(image, error) from error
    if not isinstance(data, bytes):
        raise UsageError(
            f"{name_of(image)} gives {type(data).__name__}, not bytes",
            hint='open it as a binary file: open(path, "rb")',
        )
    return data


def unreadable(image: Image, error: OSError | ValueError) -> UsageError:
    """The error for an image that cannot be read."""
    return UsageError(
        f"{name_of(image)} cannot be read: {getattr(error, 'strerror', None) or error}",
        hint="give the path of a JPEG or PNG file, or - for standard input",
    )
