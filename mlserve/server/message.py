"""A REST request and its answer, whoever brings them: the server's own port, or ASGI.

`listen.http_request` has the requests of the server's own port, `listen.asgi` those of an
application that the server is mounted in. Everything else sees only these classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from mlserve.server.peer import UNKNOWN_PEER, Peer
from mlserve.wire.headers import TRACEPARENT, TRACESTATE

Result = TypeVar("Result")
_OF_TRACES = (TRACEPARENT.encode(), TRACESTATE.encode())
_IPV4_IN_IPV6 = "::ffff:"
RawHeaders = Sequence[tuple[bytes, bytes]]
LINGER = 1.0
"""Seconds in which incoming data is read and dropped before the connection is closed.

If it were closed at once, the client might see a reset in place of the response (RFC 9112, section
9.6).
"""


def address_of(peer: object) -> str:
    """Return the IP address of a peer as a socket or ASGI names it; empty for any other peer.

    An IPv4 address in IPv6 form is returned as IPv4, so that a caller has one address whichever
    way the server listens.
    """
    if not isinstance(peer, tuple | list) or not peer or not isinstance(peer[0], str):
        return ""
    return peer[0].removeprefix(_IPV4_IN_IPV6)


class ClientGone(Exception):
    """The client has disconnected, so that no answer can reach it."""


class Headers:
    """The headers of a request, in the order sent; names in lower case, values in Latin-1."""

    __slots__ = ("_first", "_raw")

    def __init__(self, raw: RawHeaders = ()) -> None:
        self._raw = raw
        first = dict(raw)
        if len(first) != len(raw):  # the first of equal names counts, but for those that are joined
            first = dict(reversed(raw)) | _joined(raw)
        self._first = first

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Headers:
        """Return the headers with these names and values."""
        return cls([(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in values.items()])

    def __reduce__(self) -> tuple[type[Headers], tuple[RawHeaders]]:
        return Headers, (self._raw,)

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._first

    def get(self, name: str, default: str = "") -> str:
        """Return the first header of that lower-case name."""
        value = self._first.get(name.encode())
        return default if value is None else value.decode("latin-1")

    def find(self, name: str) -> str | None:
        """Return the first header of that lower-case name; None without one."""
        value = self._first.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """Return the headers of that lower-case name."""
        wanted = name.encode()
        if wanted not in self._first:
            return []
        return [value.decode("latin-1") for key, value in self._raw if key == wanted]


def _joined(raw: RawHeaders) -> dict[bytes, bytes]:
    """Return the headers of traces, whose values W3C has joined: two traceparents are none."""
    values = ((wanted, [value for name, value in raw if name == wanted]) for wanted in _OF_TRACES)
    return {name: b",".join(found) for name, found in values if found}


class Response:
    """An answer: its status, headers by lower-case name, and body."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "",
    ) -> None:
        self.body = body
        self.status = status
        self.headers = {"content-length": str(len(body))}
        if headers:
            self.headers.update(headers)
        if media_type:
            self.headers["content-type"] = media_type

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it."""
        return self.headers.get("connection") == "close"


class Request(ABC):
    """The head of a request, and the way to its body.

    `path` is the path as it was sent, `below` the part of it below `root`: where an application has
    mounted the server, decoded. `address` is the peer's IP address, empty for a UNIX socket.
    `peer` is what the kernel knows of the client.
    """

    __slots__ = (
        *("address", "below", "headers", "http_version", "method"),
        *("path", "peer", "query", "root"),
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        http_version: str = "1.1",
        *,
        root: str = "",
        below: str | None = None,
        address: str = "",
        peer: Peer = UNKNOWN_PEER,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.http_version = http_version
        self.root = root
        self.below = path if below is None else below
        self.address = address
        self.peer = peer

    @property
    def shown_path(self) -> str:
        """The path, decoded, for messages."""
        return unquote(self.path)

    def parameter(self, name: str) -> str:
        """Return that parameter of the query; empty without one."""
        pairs = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True)
        return dict(pairs).get(name, "")

    @property
    @abstractmethod
    def has_arrived(self) -> bool:
        """Whether the rest of the body is here, so that `next_part` does not wait."""

    @abstractmethod
    async def next_part(self) -> bytes:
        """Return the next part of the body; empty at its end. Raises ClientGone."""

    @abstractmethod
    async def while_connected(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return the result of `work`; if the client leaves, cancel it and raise ClientGone.

        Call it once the body has been read.
        """

    @abstractmethod
    def answer_at_once(self, response: Response) -> bool:
        """Send a short answer that nothing has to wait for, and return True; else return False.

        False means that nothing has been sent: `respond` can.
        """

    @abstractmethod
    async def respond(self, response: Response, *, lingers: bool) -> None:
        """Send the answer, or drop it if the client has left.

        One that `lingers` ends the connection, once the client had time to read it: what still
        arrives is dropped meanwhile.
        """
