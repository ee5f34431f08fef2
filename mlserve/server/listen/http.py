"""Route REST requests to their protocol; shared parts: deadlines, bodies, responses, errors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlserve.deadline import Deadline
from mlserve.errors import (
    AccessDenied,
    InvalidInput,
    MlserveError,
    NotAllowed,
    NotFound,
    UsageError,
)
from mlserve.server.body_memory import BodyMemory
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import InferenceCall
from mlserve.server.errors import as_known_error, error_text
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.drain import InFlight
from mlserve.server.listen.http_body import Body, BodyTooLarge, NoRoom, respond_and_close
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.models import Models
from mlserve.server.models.versions import VersionChoice
from mlserve.server.request import LONGEST_PATH, Purpose, RequestRecord, Route, current
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.wire.headers import (
    CONTRACT,
    ENVOY_TIMEOUT_MS,
    MODEL_VERSION,
    RANDOM_WEIGHTS,
    REQUEST_TIMEOUT_MS,
    over_http,
)
from mlserve.wire.status import http_status, retry_headers

_TIMEOUTS = (REQUEST_TIMEOUT_MS, ENVOY_TIMEOUT_MS)
"""Headers with the milliseconds that the client waits; the smallest value applies."""
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
_MOST_SHOWN = 40
"""Characters of a header that an error quotes."""
_CLIENT_CLOSED_REQUEST = 499
_PATH_MARKS = "/:@!$&'()*+,;=~"
"""What a path may hold as it is, besides letters, digits and `-._` (RFC 3986, section 3.3)."""

Result = TypeVar("Result")


class MethodNotAllowed(UsageError):
    """The path exists, but not for that method; `allowed` is the method to use."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


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


class RestInference:
    """Answer the requests that run a model, for any protocol."""

    def __init__(self, engine: Engine, models: Models, memory: BodyMemory) -> None:
        self._engine = engine
        self._models = models
        self._memory = memory

    async def answer(
        self,
        request: Request,
        model: str,
        version: VersionChoice,
        read: Callable[[Body], InferenceCall[Result]],
    ) -> Result:
        """Return the result of the call that `read` makes from the request's body.

        Requests to a full server or for an unknown model are refused before their body is read.
        Raises MlserveError, and ClientDisconnect if the client leaves.
        """
        engine = self._engine
        deadline = deadline_of(request, engine.default_timeout)
        engine.admit(deadline)
        self._models.lease(model, version).release()
        most_bytes = engine.settings.max_request_bytes
        async with received(request, deadline, most_bytes, self._memory) as body:
            return await _while_connected(request, engine.serve(read(body)))


def json_response(body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return a 200 response with that JSON."""
    return Response(body, headers=headers, media_type="application/json")


def answer_headers(loaded: LoadedVersion) -> dict[str, str]:
    """Return the headers for the version that answered and, if so, its random weights."""
    headers = {over_http(MODEL_VERSION): str(loaded.version)}
    if loaded.has_random_weights:
        headers[over_http(RANDOM_WEIGHTS)] = "1"
    return headers


def contract_headers(contract: str) -> dict[str, str]:
    """Return the header that describes the model's inputs and outputs, if they are known."""
    return {over_http(CONTRACT): contract} if contract else {}


def error_response(error: MlserveError) -> Response:
    """Return `{"error": "<message>"}` with the status code and headers that go with the error.

    The headers of a refusal say when the part that refused, usually the engine, expects to have
    room.
    """
    body = json.dumps({"error": error_text(error)}).encode()
    status, headers = http_status(error), retry_headers(error)
    if isinstance(error, MethodNotAllowed):
        status, headers["Allow"] = 405, error.allowed
    elif isinstance(error, AccessDenied) and not isinstance(error, NotAllowed):
        headers |= {"WWW-Authenticate": "Bearer", "Connection": "close"}
    if isinstance(error, BodyTooLarge | NoRoom):  # the rest of the body has not been read
        headers["Connection"] = "close"
    return Response(body, status, headers, "application/json")


def check_method(request: Request, allowed: str) -> None:
    """Raise MethodNotAllowed for any other method; where GET is allowed, so is HEAD."""
    if request.method != allowed and (request.method, allowed) != ("HEAD", "GET"):
        raise MethodNotAllowed(
            f"Method {request.method} is not allowed for {request.url.path}; use {allowed}", allowed
        )


def deadline_of(request: Request, default: float) -> Deadline:
    """Return the deadline from the request's headers, or `default` seconds. Raises InvalidInput."""
    values = [value for name in _TIMEOUTS for value in request.headers.getlist(name)]
    return Deadline.at_most(min(map(_seconds, values), default=default))


@asynccontextmanager
async def received(
    request: Request, deadline: Deadline, limit: int, memory: BodyMemory
) -> AsyncIterator[Body]:
    """Receive the request's body as it was sent, counted in `memory` inside the block.

    Raises DeadlineExceeded, BodyTooLarge above `limit`, and NoRoom.
    """
    with Body(memory, deadline) as body:
        await body.receive(request.stream(), request.headers, limit)
        current().bytes_in = len(body.content)
        yield body


async def _while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of `work`; if the client disconnects, cancel it, raise ClientDisconnect.

    Call it after the body was read: from then on a request receives nothing but the disconnect.
    """
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        answer.cancel()


def _seconds(milliseconds: str) -> float:
    if not _MILLISECONDS.fullmatch(milliseconds):
        raise InvalidInput(
            f"{REQUEST_TIMEOUT_MS} must be a whole number of milliseconds of at most 15 digits, "
            f"not {milliseconds[:_MOST_SHOWN]!r}"
        )
    return int(milliseconds) / 1000
