"""From the bytes of a connection to requests: heads, pieces of bodies, and their ends.

llhttp, through httptools, consumes all data at once, including pipelined requests, and has no
limits of its own: `http_framing` and this enforce them.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import httptools

from mlserve.server.listen.http_framing import (
    MOST_HEAD_BYTES,
    Fault,
    framing_of,
    not_http,
    too_long,
)


class Part(Enum):
    """The part of a request that the parser is in."""

    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


class RequestReceiver(Protocol):
    """Who is told of requests as they arrive."""

    def on_begin(self) -> None:
        """Take note that a request begins; raise Fault if it is one too many."""
        ...

    def on_head(
        self,
        target: tuple[str, str, bytes],
        headers: list[tuple[bytes, bytes]],
        version: str,
        *,
        keeps_alive: bool,
    ) -> None:
        """Take a head: the method, path and query, and the headers with names in small letters."""
        ...

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        ...

    def on_end(self) -> None:
        """Take note that the request is complete."""
        ...


class RequestParser:
    """The parser of one connection.

    `part` is what it is in; `has_advanced` whether the last data held more than a piece of a head.
    """

    def __init__(self, receiver: RequestReceiver) -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        # Several requests may arrive at once, and the first of them be the last that is answered.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._bytes_without_advance = 0
        self._framing = b""
        self._is_body_resumed = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self.part = Part.NOTHING
        self.has_advanced = False

    def take(self, data: bytes) -> Fault | None:
        """Parse the data; return what is wrong with it, if anything is."""
        self.has_advanced = False
        try:
            self._parse(data)
            self._bytes_without_advance += len(data)
            if self.has_advanced:
                self._bytes_without_advance = 0
            elif self._bytes_without_advance > MOST_HEAD_BYTES:
                return too_long()
        except httptools.HttpParserError as error:
            cause = error.__context__
            return cause if isinstance(cause, Fault) else not_http()
        except Fault as fault:
            return fault
        return None

    def close(self) -> None:
        """Let go of the receiver; a cycle would last until the next collection."""
        self._receiver = self._parser = None  # type: ignore[assignment]

    def _parse(self, data: bytes) -> None:
        """Feed the parser, and restart it where it stops at requests with an `Upgrade` header.

        The restart replays the request's framing headers, so that its body is parsed as one.
        """
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._is_body_resumed = bool(self._framing)
                data = self._framing + data[offer.args[0] :]
            else:
                return

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        """Begin a request, unless the parser was restarted for the rest of one (see `_parse`)."""
        if self._is_body_resumed:
            return
        self._receiver.on_begin()
        self.part = Part.HEAD
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; drop trailers, which follow a body."""
        if self.part is Part.HEAD:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand on the head, unless it is the one that was replayed."""
        self.has_advanced = True
        if self._is_body_resumed:
            self._is_body_resumed = False
            return
        parser = self._parser
        version = parser.get_http_version()
        self._framing = framing_of(version, self._url, self._headers)
        url = httptools.parse_url(self._url)
        if url.path is None:
            raise not_http()
        target = (parser.get_method().decode("ascii"), url.path.decode("ascii"), url.query or b"")
        keeps_alive = version != "1.0" and parser.should_keep_alive()
        self.part = Part.BODY
        self._receiver.on_head(target, self._headers, version, keeps_alive=keeps_alive)

    def on_body(self, body: bytes) -> None:
        self.has_advanced = True
        self._receiver.on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless the parser takes its body for another protocol."""
        if self._parser.should_upgrade() and self._framing:
            return
        self.has_advanced = True
        self.part = Part.NOTHING
        self._receiver.on_end()
