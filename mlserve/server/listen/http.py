"""Answer REST requests, for any protocol: deadlines, bodies, responses, errors.

`routes` finds the protocol that a request is for.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mlserve.deadline import Deadline
from mlserve.errors import (
    AccessDenied,
    InvalidInput,
    MlserveError,
    NotAllowed,
    UsageError,
)
from mlserve.recording.records import CONTENT_HEADERS
from mlserve.server.body_memory import BodyMemory, Room
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import Head, InferenceCall
from mlserve.server.engine.work import Codec
from mlserve.server.errors import error_text, hint_text
from mlserve.server.listen.http_body import Body, BodyTooLarge, NoRoom, length_of
from mlserve.server.message import ClientGone, Headers, Request, Response
from mlserve.server.models.loading import Served
from mlserve.server.models.models import Models
from mlserve.server.models.versions import VersionChoice
from mlserve.server.request import current
from mlserve.wire.headers import (
    CONTRACT,
    ENVOY_TIMEOUT_MS,
    HINT,
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

Result = TypeVar("Result")


class MethodNotAllowed(UsageError):
    """The path exists, but not for that method; `allowed` is the method to use."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class RestInference:
    """Answer the requests that run a model, for any protocol."""

    def __init__(self, engine: Engine, models: Models, memory: BodyMemory) -> None:
        self._engine = engine
        self._models = models
        self._memory = memory

    def answer(
        self,
        request: Request,
        model: str,
        version: VersionChoice,
        read: Callable[[Body], InferenceCall[Result]],
    ) -> Coroutine[Any, Any, Result]:
        """Return what gives the result of the call that `read` makes from the request's body.

        Requests that are refused by their head alone, such as those to a full server or for an
        unknown model, are refused at once. Raises MlserveError, and ClientGone if the client
        leaves.
        """
        engine = self._engine
        record = current()
        if record.has_waited() and request.peer.has_hung_up():  # else a system call in vain
            raise ClientGone
        deadline = deadline_of(request, engine.default_timeout)
        record.take_deadline(deadline)
        record.take_priority(request.headers.find)
        engine.admit(deadline, Head(model, length_of(request.headers)))
        self._models.lease(model, version).release()
        return self._answer(request, deadline, read)

    async def _answer(
        self, request: Request, deadline: Deadline, read: Callable[[Body], InferenceCall[Result]]
    ) -> Result:
        with Body(self._memory, deadline) as body:
            await body.receive(request, self._engine.settings.max_request_bytes)
            if (sample := current().sample) is not None:
                sample.keep_body(body.content, content_headers(request.headers))
            call = read(body)
            return await request.while_connected(lambda: self._engine.serve(call))


class BodyCodec(Codec[Result]):
    """A request whose content is a body with headers about it."""

    def __init__(self, body: Body, headers: Headers) -> None:
        self.body = body
        self.headers = headers

    def let_go(self) -> bool:
        self.body.content = b""
        return True

    @property
    def room(self) -> Room:
        """The room that the body is read in."""
        return self.body.room

    @room.setter
    def room(self, room: Room) -> None:
        self.body.room = room


def content_headers(headers: Headers) -> dict[str, str]:
    """Return the headers that say what the body is."""
    found = ((name, headers.find(name)) for name in CONTENT_HEADERS)
    return {name: value for name, value in found if value is not None}


def json_response(body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return a 200 response with that JSON."""
    return Response(body, headers=headers, media_type="application/json")


def answer_headers(served: Served) -> dict[str, str]:
    """Return the headers for the version that answered and, if so, its random weights."""
    headers = {over_http(MODEL_VERSION): str(served.version)}
    if served.has_random_weights:
        headers[over_http(RANDOM_WEIGHTS)] = "1"
    return headers


def contract_headers(contract: str) -> dict[str, str]:
    """Return the header that describes the model's inputs and outputs, if they are known."""
    return {over_http(CONTRACT): contract} if contract else {}


def error_response(error: MlserveError) -> Response:
    """Return `{"error": "<message>"}` with the status code and headers that go with the error.

    The headers say what to do about it; those of a refusal also when the part that refused,
    usually the engine, expects to have room.
    """
    body = json.dumps({"error": error_text(error)}).encode()
    status, headers = http_status(error), retry_headers(error)
    if error.hint:
        headers[over_http(HINT)] = hint_text(error.hint)
    if isinstance(error, MethodNotAllowed):
        status, headers["allow"] = 405, error.allowed
    elif isinstance(error, AccessDenied) and not isinstance(error, NotAllowed):
        headers |= {"www-authenticate": "Bearer", "connection": "close"}
    if isinstance(error, BodyTooLarge | NoRoom):  # the rest of the body has not been read
        headers["connection"] = "close"
    return Response(body, status, headers, "application/json")


def check_method(request: Request, allowed: str) -> None:
    """Raise MethodNotAllowed for any other method; where GET is allowed, so is HEAD."""
    if request.method != allowed and (request.method, allowed) != ("HEAD", "GET"):
        raise MethodNotAllowed(
            f"Method {request.method} is not allowed for {request.shown_path}; use {allowed}",
            allowed,
        )


def deadline_of(request: Request, default: float) -> Deadline:
    """Return the deadline from the request's headers, or `default` seconds. Raises InvalidInput."""
    values = [value for name in _TIMEOUTS for value in request.headers.all(name)]
    asked = min(map(_seconds, values), default=None)
    return Deadline.at_most(asked, default, since=current().began)


@asynccontextmanager
async def received(
    request: Request, deadline: Deadline, limit: int, memory: BodyMemory
) -> AsyncIterator[Body]:
    """Receive the request's body as it was sent, counted in `memory` inside the block.

    Raises DeadlineExceeded, BodyTooLarge above `limit`, and NoRoom.
    """
    with Body(memory, deadline) as body:
        await body.receive(request, limit)
        yield body


def _seconds(milliseconds: str) -> float:
    if not _MILLISECONDS.fullmatch(milliseconds):
        raise InvalidInput(
            f"{REQUEST_TIMEOUT_MS} must be a whole number of milliseconds of at most 15 digits, "
            f"not {milliseconds[:_MOST_SHOWN]!r}"
        )
    return int(milliseconds) / 1000
