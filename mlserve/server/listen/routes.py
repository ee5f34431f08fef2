"""Route REST requests: the application of the REST port finds who answers a path.

Each protocol says which paths are its own, in its `match()`: `tfs/rest.py`, `oip/rest.py`, and
`pages.py` for what belongs to no protocol. What they share to answer a request is in `http`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from mlserve.errors import NotFound
from mlserve.recording.records import CONTENT_HEADERS
from mlserve.server.errors import as_known_error
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.asgi import AsgiRequest
from mlserve.server.listen.drain import InFlight
from mlserve.server.listen.http import error_response
from mlserve.server.message import ClientGone, Request, Response
from mlserve.server.request import LONGEST_PATH, Purpose, RequestRecord, Route
from mlserve.server.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_CLIENT_CLOSED_REQUEST = 499
_KNOWN_PATHS = 256
"""Paths whose operations are remembered: most clients ask for the same ones."""


@dataclass(frozen=True, slots=True)
class Operation:
    """How the protocol `api` answers one kind of request, and the purpose of such requests.

    `respond` raises MlserveError: at once if the head is enough for it, which costs no task.
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
    """The application of the REST port, and of a mounted server, for which it is an ASGI one.

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
        self._headers = [(name.lower(), value) for name, value in headers]
        self._find_known = lru_cache(_KNOWN_PATHS)(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of an ASGI server."""
        answering = self.begin(AsgiRequest(scope, receive, send))
        if answering is not None:
            await answering

    def begin(self, request: Request) -> Coroutine[Any, Any, None] | None:
        """Begin to answer a request, and return what goes on with it.

        None if it has been answered: its head was enough to refuse it. Then it has been recorded.
        """
        is_usual = len(request.path) <= LONGEST_PATH
        find = self._find_known if is_usual else self._find
        operation, route = find(request.method, request.path, request.below)
        record = self._telemetry.begin(route, request.headers.find, request.address, request.peer)
        self._in_flight.take(record)
        is_late = self._in_flight.is_draining  # it will be refused, with its body unread
        try:
            if operation.needs_token:
                record.named(self._gate.check(request))
            answering = operation.respond(request)
        except ClientGone:
            gone = Response(status=_CLIENT_CLOSED_REQUEST)
            return self._send(request, gone, record, is_late=is_late)
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            refusal = _failed(record, error)
            if is_late or not request.answer_at_once(self._completed(refusal, record)):
                return self._send(request, refusal, record, is_late=is_late)
            self._end(record)
            return None
        return self._serve(request, answering, record, is_late=is_late)

    async def _serve(
        self,
        request: Request,
        answering: Awaitable[Response],
        record: RequestRecord,
        *,
        is_late: bool,
    ) -> None:
        try:
            response = await answering
        except ClientGone:
            response = Response(status=_CLIENT_CLOSED_REQUEST)
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            response = _failed(record, error)
        except BaseException:
            self._end(record)
            raise
        else:
            record.answered()
            if record.sample is not None:
                record.sample.keep_answer(response.body, _about(response))
        await self._send(request, response, record, is_late=is_late)

    async def _send(
        self, request: Request, response: Response, record: RequestRecord, *, is_late: bool
    ) -> None:
        """Send the answer, and record it."""
        try:
            must_linger = is_late or response.closes
            if self._in_flight.is_draining:
                # Makes the client, or the load balancer in front of it, turn to another server.
                response.headers["connection"] = "close"
            await request.respond(self._completed(response, record), lingers=must_linger)
        finally:
            self._end(record)

    def _completed(self, response: Response, record: RequestRecord) -> Response:
        """Add the headers of every answer."""
        response.headers.update(self._headers)
        response.headers.update(record.headers())
        record.status = str(response.status)
        return response

    def _end(self, record: RequestRecord) -> None:
        self._telemetry.end(record)
        self._in_flight.answered(record)

    def _find(self, method: str, path: str, below: str) -> tuple[Operation, Route]:
        operation = self.operation(below)
        return operation, operation.route(method, path)

    def operation(self, path: str) -> Operation:
        """Return the operation at that raw path; for unknown paths, one that raises NotFound."""
        for protocol in self._protocols:
            if (operation := protocol.match(path)) is not None:
                return operation
        return Operation("", Purpose.OTHER, _no_such_path)


def _failed(record: RequestRecord, error: Exception) -> Response:
    """Return the answer to a request that the error has ended, and note it in the record."""
    failure = as_known_error(error)
    record.failed(failure)
    return error_response(failure)


def _about(response: Response) -> dict[str, str]:
    """Return the headers that say what the body of an answer is."""
    headers = response.headers
    return {name: headers[name] for name in CONTENT_HEADERS if name in headers}


async def _no_such_path(request: Request) -> Response:
    raise NotFound(f"Malformed request: {request.method} {request.shown_path}")
