"""The body of a REST request: read within a limit, decompressed within the same limit."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable

from starlette.datastructures import Headers  # noqa: TID253

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.settings import flag_of

_GZIP = 31  # zlib's wbits for a gzip stream
_ZLIB_HEAD, _ZLIB_CHECK = 2, 31  # RFC 1950: its two bytes are a multiple of 31
_MAX_DIGITS = 20
_MAX_MEMBERS = 4096
_PIECE = 64 * 2**10  # bytes of a compressed body that are looked at at once


class BodyTooLarge(InputTooLarge):
    """A body of more bytes than the server takes; the rest of it has not been read."""


async def read_body(stream: AsyncIterable[bytes], headers: Headers, limit: int) -> bytes:
    """The body as it was sent. Raises BodyTooLarge, before reading it where it says its length."""
    length = headers.get("content-length", "")
    if length.isdigit() and (len(length) > _MAX_DIGITS or int(length) > limit):
        raise BodyTooLarge(_too_large(f"{length[:_MAX_DIGITS]} bytes", limit))
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        if size > limit:
            raise BodyTooLarge(_too_large(f"more than {limit} bytes", limit))
        parts.append(part)
    return b"".join(parts)


def content_of(body: bytes, headers: Headers, limit: int) -> bytes:
    """The body without its compression. Raises InvalidInput, InputTooLarge for a bomb."""
    encoding = _encoding(headers)
    if encoding in ("gzip", "x-gzip"):
        return gunzip(body, limit)
    if encoding == "deflate":
        return inflate(body, limit)
    if encoding != "identity":
        raise InvalidInput(
            f"Content-Encoding {encoding!r} is not supported; send gzip, deflate or none"
        )
    return body


def text_of(content: bytes) -> str:
    """The text that these bytes are, without a byte order mark. Raises InvalidInput."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: {error}") from error


def is_encoded(headers: Headers) -> bool:
    """Whether the body is compressed, by its header."""
    return _encoding(headers) != "identity"


def inflate(data: bytes, limit: int) -> bytes:
    """The content of a deflate body, up to that many bytes.

    That is a zlib stream (RFC 9110, 8.4.1.2); some clients send the deflate data without zlib's
    head, which cannot be taken for one.
    """
    has_head = len(data) >= _ZLIB_HEAD and data[0] & 0xF == zlib.DEFLATED
    has_head = has_head and int.from_bytes(data[:_ZLIB_HEAD], "big") % _ZLIB_CHECK == 0
    stream = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not deflate: {error}") from error
    if len(content) > limit:
        raise InputTooLarge(_too_large(f"more than {limit} bytes when decompressed", limit))
    if not stream.eof:
        raise InvalidInput("the body is not deflate: it ends early")
    if stream.unused_data:
        raise InvalidInput("the body is not deflate: more follows its end")
    return content


def gunzip(data: bytes, limit: int) -> bytes:
    """The content of a gzip stream, of one member or more, up to that many bytes.

    Raises InvalidInput, also for more than 4,096 members (64 MiB of bgzip's blocks have 1,024), and
    InputTooLarge.
    """
    content, place, members = bytearray(), 0, 0
    member = zlib.decompressobj(_GZIP)
    while place < len(data) or not member.eof:
        if member.eof:
            members += 1
            if members == _MAX_MEMBERS:
                raise InvalidInput(f"the body is gzip of more than {_MAX_MEMBERS} members")
            member = zlib.decompressobj(_GZIP)
        # In pieces: what follows a member is copied, and a whole body each time is quadratic.
        piece = data[place : place + _PIECE]
        if not piece:
            raise InvalidInput("the body is not gzip: it ends early")
        try:
            content += member.decompress(piece, limit - len(content) + 1)
        except zlib.error as error:
            raise InvalidInput(f"the body is not gzip: {error}") from error
        if len(content) > limit:
            raise InputTooLarge(_too_large(f"more than {limit} bytes when decompressed", limit))
        place += len(piece) - len(member.unused_data)
    return bytes(content)


def _encoding(headers: Headers) -> str:
    return headers.get("content-encoding", "identity").strip().lower()


def _too_large(what: str, limit: int) -> str:
    flag = flag_of("max_request_bytes")
    return f"the body has {what}; this server takes at most {limit} ({flag})"
