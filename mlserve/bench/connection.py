"""A connection of the load generator: ready bytes out, the kind of the outcome back."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from mlserve.bench.tally import ANSWERED
from mlserve.errors import MlserveError
from mlserve.wire.status import error_from_grpc, error_from_http

LOST = "connection_lost"
"""The kind of a request whose connection ended before its answer."""
NOT_CONNECTED = "not_connected"
"""The kind of a request for which no connection could be made."""
UNSEEN = "unseen"
"""The kind of a request that the server says it has not looked at."""
GARBAGE = "not_understood"
"""The kind of an answer that is not of the protocol."""
_OK = 200


@dataclass(frozen=True, slots=True)
class Request:
    """A request in the bytes that are sent: over HTTP/1.1 the head and the body as they are.

    Over gRPC, `head` is a header block (HPACK without any state), and `body` the message with its
    prefix. `timeout` is what the request tells the server, in seconds.
    """

    head: bytes
    body: bytes
    timeout: float


class LoadConnection(asyncio.Protocol, ABC):
    """One connection to a server, with one request at a time on it.

    `ended(connection, kind, server_timing)` is called once for each request, unless it was given
    up. Times are of the event loop's clock, in seconds: when the request was `planned`, when it is
    `due`, and since when the connection was free before it. `is_stale`: that was long ago, so the
    server may have closed it meanwhile. `is_used`: there was a request before this one.
    """

    def __init__(self, ended: Callable[[LoadConnection, str, bytes], None]) -> None:
        self.planned = self.due = self.free_since = 0.0
        self.is_stale = self.is_used = False
        self.is_open = False
        self.is_busy = False
        self._ended = ended
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    @abstractmethod
    def send(self, request: Request) -> None:
        """Send a request; the connection has to be open, and not busy."""

    @property
    @abstractmethod
    def has_begun(self) -> bool:
        """Whether a part of the answer has come."""

    @abstractmethod
    def give_up(self) -> None:
        """Forget the request; the connection may have to be closed for that."""

    def close(self) -> None:
        """Close the connection; nothing is called any more."""
        self.is_open = self.is_busy = False
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        was_busy, self.is_open = self.is_busy, False
        self.is_busy = False
        if was_busy:
            self._ended(self, LOST, b"")

    def _end(self, kind: str, timing: bytes = b"") -> None:
        self.is_busy = False
        self._ended(self, kind, timing)

    def _spoil(self) -> None:
        """End a connection on which something came that cannot be read."""
        was_busy = self.is_busy
        self.close()
        if was_busy:
            self._ended(self, GARBAGE, b"")


@cache
def kind_of_http(status: int) -> str:
    """Return the kind of outcome that a status means."""
    return ANSWERED if status == _OK else kind_of(error_from_http(status))


@cache
def kind_of_grpc(code: str) -> str:
    """Return the kind of outcome that a gRPC code's name means."""
    return ANSWERED if code == "OK" else kind_of(error_from_grpc(code))


def kind_of(error: type[MlserveError]) -> str:
    """Return the stable name of a kind of error, as in JSON."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()
