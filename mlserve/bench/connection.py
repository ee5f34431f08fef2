"""A connection of the load generator: ready bytes out, the kind of the outcome back."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
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


Take = Callable[[Mapping[str, str], bytes], None]
"""Takes the headers and the body of an answer; over gRPC its message, and no headers."""
Fail = Callable[[str], None]
"""Takes what an error says: the body over HTTP, the status message over gRPC."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request in the bytes that are sent: over HTTP/1.1 the head and the body as they are.

    Over gRPC, `head` is a header block (HPACK without any state), and `body` the message with its
    prefix. `timeout` is how long the caller waits, in seconds; `is_told` says that the request
    tells the server so. Otherwise the caller just hangs up. `label` names a part of the load.
    `take`, if there is one, gets the answer, of which otherwise only the status is read, and then
    `fail` what an error says. `read`, if there is one, gives the body when it is sent, so that not
    all bodies are in memory at once.
    """

    head: bytes
    body: bytes
    timeout: float
    is_told: bool = True
    label: str = ""
    take: Take | None = None
    fail: Fail | None = None
    read: Callable[[], bytes] | None = None

    def content(self) -> bytes:
        """Return the body, to be sent now."""
        return self.body if self.read is None else self.read()


@dataclass(slots=True)
class Attempt:
    """A request that is to be sent at the moment `planned`, by the event loop's clock in seconds.

    `due` is until when the generator waits for its answer. `first` is when the call was planned of
    which this is an attempt, and `retries` how many may follow.
    """

    request: Request
    planned: float
    due: float
    first: float
    retries: int = 0


class LoadConnection(asyncio.Protocol, ABC):
    """One connection to a server, with one request at a time on it.

    `ended(connection, kind, server_timing)` is called once for each request, unless it was given
    up. `attempt` is what was sent last, and `free_since` since when the connection was free before
    it, by the event loop's clock. `is_stale`: that was long ago, so the server may have closed it
    meanwhile. `is_used`: there was a request before this one.
    """

    attempt: Attempt

    def __init__(self, ended: Callable[[LoadConnection, str, bytes], None]) -> None:
        self.free_since = 0.0
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
