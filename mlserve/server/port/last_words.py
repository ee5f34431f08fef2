"""A response to a request whose body is not read, and the end of its connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: TID253

_LINGER = 1.0
"""Seconds in which what still comes in is dropped: closed at once, the client may see a reset in
place of the response (RFC 9112, section 9.6)."""


async def respond_and_close(response: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the response, which says `Connection: close`, lets the client read it, and closes."""

    async def send_all_but_the_end(message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await send({**message, "more_body": True} if is_body else message)

    await response(scope, receive, send_all_but_the_end)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            await _drop_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
