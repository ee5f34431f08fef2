"""Route REST requests: the ASGI application of the REST port finds who answers a path.

Each protocol says which paths are its own, in its `match()`: `tfs/rest.py`, `oip/rest.py`, and
`pages.py` for what belongs to no protocol. What they share to answer a request is in `http`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlserve.errors import NotFound
from mlserve.server.errors import as_known_error
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.drain import InFlight
from mlserve.server.listen.http import error_response
from mlserve.server.listen.http_body import respond_and_close
from mlserve.server.request import LONGEST_PATH, Purpose, RequestRecord, Route
from mlserve.server.telemetry.telemetry import Telemetry

_CLIENT_CLOSED_REQUEST = 499
_PATH_MARKS = "/:@!$&'()*+,;=~"
"""What a path may hold as it is, besides letters, digits and `-._` (RFC 3986, section 3.3)."""


@dataclass(frozen=True, slots=True)
class Operation:
    """How the protocol `api` answers one kind of request, and the purpose of such requests.

    `respond` raises MlserveError.
    """

    api: str
    purpose: Purpose
    respond: Callable[[Request], Awaitable[Response]]
    needs_token: bool = True

    def route(self, method: str, path: str) -> Route:
        """Return the route under which a request with that method and path is counted."""
        is_served = self.purpose is Purpose.PREDICT or method in ("GET", "HEAD")
        purpose = self.purpose if is_served else Purpose.OTHER
        return Route("rest", self.api, purpose, f"{method} {path[:LONGEST_PATH]}")


class RestProtocol(Protocol):
    """One protocol of the REST port: it maps its paths to operations."""

    def match(self, path: str) -> Operation | None:
        """Return the operation at that raw path; None if the path belongs to another protocol."""


class RestApp:
    """The ASGI application of the REST port.

    Every request gets a record, whose headers go with the response; whatever a protocol raises
    becomes a response in one format (`error_response`).
    """

    def __init__(
        self,
        gate: RestGate,
        protocols: Sequence[RestProtocol],
        telemetry: Telemetry,
        in_flight: InFlight,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Try the protocols in this order; send `headers` with every response."""
        self._gate = gate
        self._protocols = protocols
        self._telemetry = telemetry
        self._in_flight = in_flight
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path, below = raw_paths(scope)
        operation = self.operation(below)
        route = operation.route(request.method, path)
        record = self._telemetry.begin(route, request.headers.get)
        self._in_flight.take(record)
        is_late = self._in_flight.is_draining  # it will be refused, with its body unread
        try:
            response = await self._answer(request, operation, record)
            headers = (*self._headers, *record.headers())
            response.raw_headers += [(k.encode(), v.encode()) for k, v in headers]
            is_http_1 = scope["http_version"].startswith("1")
            if not is_http_1:
                del response.headers["connection"]  # HTTP/2 forbids it (RFC 9113, section 8.2.2)
            must_linger = is_http_1 and (is_late or response.headers.get("connection") == "close")
            if self._in_flight.is_draining and is_http_1:
                # Makes the client, or the load balancer in front of it, turn to another server.
                response.headers["connection"] = "close"
            if must_linger:
                await respond_and_close(response, scope, receive, send)
            else:
                await response(scope, receive, send)
        finally:
            self._telemetry.end(record)
            self._in_flight.answered(record)

    def operation(self, path: str) -> Operation:
        """Return the operation at that raw path; for unknown paths, one that raises NotFound."""
        for protocol in self._protocols:
            if (operation := protocol.match(path)) is not None:
                return operation
        return Operation("", Purpose.OTHER, _no_such_path)

    async def _answer(
        self, request: Request, operation: Operation, record: RequestRecord
    ) -> Response:
        try:
            if operation.needs_token:
                self._gate.check(request)
            response = await operation.respond(request)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            failure = as_known_error(error)
            record.failed(failure)
            return error_response(failure)
        record.answered()
        return response


def raw_paths(scope: Scope) -> tuple[str, str]:
    """Return the request's path as it was sent, and the part of it below ASGI's `root_path`.

    A framework that mounts this application at `/ml` leaves the path whole and says `/ml` in
    `root_path`, decoded. A server need not tell the raw path: it is then made from the decoded one.
    """
    raw: bytes = scope.get("raw_path") or quote(scope["path"], safe=_PATH_MARKS).encode()
    root: bytes = scope.get("root_path", "").rstrip("/").encode()
    place = _end_of(root, raw) if root else 0
    return raw.decode("ascii", "replace"), raw[place:].decode("ascii", "replace")


def _end_of(root: bytes, raw: bytes) -> int:
    """Return where the escaped path `raw` has spelt out `root`; 0 if it does not begin with it."""
    place = 0
    for byte in root:
        is_escape = raw[place : place + 1] == b"%"
        piece = raw[place : place + (3 if is_escape else 1)]
        if unquote_to_bytes(piece) != bytes((byte,)):
            return 0
        place += len(piece)
    return place if raw[place : place + 1] in (b"", b"/") else 0


async def _no_such_path(request: Request) -> Response:
    raise NotFound(f"Malformed request: {request.method} {request.url.path}")
