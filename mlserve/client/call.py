"""What is sent with a call: its ids, which the server logs, and its image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from mlserve.background import run_on_daemon_thread
from mlserve.errors import UsageError
from mlserve.wire.headers import REQUEST_ID, TRACEPARENT, read_traceparent, write_traceparent

TRACEPARENT_VARIABLE = TRACEPARENT.upper()
"""The variable with the trace that a program continues, as tools that trace shells set it."""
_SAMPLED = "01"
_ENCODE = (
    "encode pixels as a file first: buffer = io.BytesIO(); "
    'PIL.Image.fromarray(pixels).save(buffer, "PNG"); then give buffer.getvalue()'
)
Image = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""An image file: its path, its bytes, or an open binary file that is read to its end."""


@dataclass(frozen=True, slots=True)
class CallIds:
    """The ids of a call: its trace, and a request id that is kept across retries."""

    trace: Trace
    request_id: str = field(default_factory=lambda: _hexadecimal(16))

    def headers(self) -> dict[str, str]:
        """Return the headers, or gRPC metadata, of one attempt; each attempt has its own span."""
        span = write_traceparent(self.trace.id, _hexadecimal(8), self.trace.flags)
        return {REQUEST_ID: self.request_id, TRACEPARENT: span}


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace of calls. `id` is 32 hexadecimal digits; `flags` are W3C's two digits."""

    id: str
    flags: str = _SAMPLED

    @classmethod
    def following(cls, parent: str | None) -> Trace:
        """Return the trace of that traceparent; None takes the environment's, or begins a new one.

        A malformed one in the environment is ignored, as W3C says. Raises UsageError for a
        malformed `parent`.
        """
        text = os.environ.get(TRACEPARENT_VARIABLE, "") if parent is None else parent
        if text and (found := read_traceparent(text.strip())):
            trace_id, _, flags = found
            return cls(trace_id, flags)
        if parent is not None:
            raise UsageError(
                f"{parent!r} is not a traceparent",
                hint="W3C's form is 00-<32 hex digits>-<16 hex digits>-01",
            )
        return cls(_hexadecimal(16))


def _hexadecimal(size: int) -> str:
    """Return random hexadecimal digits; all zeros, which W3C forbids, is too unlikely to check."""
    return os.urandom(size).hex()


async def read_image(image: Image) -> bytes:
    """Return the bytes of the file. Raises UsageError, naming it, if it cannot be read.

    If the caller is cancelled, the read continues in the background and its result is dropped.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | PathLike) and not hasattr(image, "read"):
        raise UsageError(
            f"{type(image).__name__} is not an image file: predict takes a path, the bytes of a "
            "JPEG or PNG file, or an open binary file",
            hint=_ENCODE,
        )
    return await run_on_daemon_thread(_read, image)


def name_of(image: Image) -> str:
    """Return a name for the image in messages."""
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
    """Return the error for an image that cannot be read."""
    return UsageError(
        f"{name_of(image)} cannot be read: {getattr(error, 'strerror', None) or error}",
        hint="give the path of a JPEG or PNG file",
    )
