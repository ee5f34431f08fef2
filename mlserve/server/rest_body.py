"""The body of a REST request: read within a limit, decompressed within the same limit."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable

from starlette.datastructures import Headers  # noqa: TID253

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.server.boundary import MAX_MESSAGE_BYTES

_GZIP = 31  # zlib's wbits for a gzip stream


async def read_body(stream: AsyncIterable[bytes], headers: Headers) -> bytes:
    """The body as it was sent. Raises InputTooLarge, before reading it where it says its length."""
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_MESSAGE_BYTES:
        raise _too_large(f"{length} bytes")
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        if size > MAX_MESSAGE_BYTES:
            raise _too_large(f"more than {MAX_MESSAGE_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def content_of(body: bytes, headers: Headers) -> bytes:
    """The body without its gzip. Raises InvalidInput, InputTooLarge for a gzip bomb."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        return gunzip(body)
    if encoding != "identity":
        raise InvalidInput(f"Content-Encoding {encoding!r} is not supported; send gzip or none")
    return body


def text_of(content: bytes) -> str:
    """The text that these bytes are, without a byte order mark. Raises InvalidInput."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: {error}") from error


def gunzip(data: bytes) -> bytes:
    """The content of a gzip stream, of one member or more, up to the limit of a body."""
    parts, size = [], 0
    while True:
        member = zlib.decompressobj(_GZIP)
        try:
            part = member.decompress(data, MAX_MESSAGE_BYTES - size + 1)
        except zlib.error as error:
            raise InvalidInput(f"the body is not gzip: {error}") from error
        parts.append(part)
        size += len(part)
        if size > MAX_MESSAGE_BYTES:
            raise _too_large(f"more than {MAX_MESSAGE_BYTES} bytes when decompressed")
        if not member.eof:
            raise InvalidInput("the body is not gzip: it ends early")
        data = member.unused_data
        if not data:
            return b"".join(parts)


def _too_large(what: str) -> InputTooLarge:
    return InputTooLarge(f"the body has {what}; the limit is {MAX_MESSAGE_BYTES}")
