"""The calls that a client makes of one model: each has one deadline, and one record of its course.

Which API the server knows, and which model is its only one, is found by asking and then remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeVar

from mlserve.client.adapter import ModelRef, SentRequest
from mlserve.client.answers import Answer
from mlserve.client.call import CallIds, Trace
from mlserve.client.connections import Connections
from mlserve.client.endpoint import APIS, Api, Connection
from mlserve.client.refusals import ConnectionLost, NotSpoken
from mlserve.client.retries import CallState, Retries
from mlserve.client.session import ModelSession, Session
from mlserve.client.session_opening import open_session
from mlserve.client.throttle import throttle_for
from mlserve.client.tracing import CallSpan
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, NotFound, Transient

T = TypeVar("T")


class ModelCalls:
    """Begins calls, asks in the API that the server knows, and says what was asked of whom.

    `model` None asks the server once for its model, which must be its only one.
    """

    def __init__(self, connection: Connection, connections: Connections) -> None:
        self._connection = connection
        self._connections = connections
        self.model = connection.model
        self._apis = APIS if connection.api is None else (connection.api,)
        self._sessions: dict[Api, ModelSession] = {}

    @property
    def api(self) -> Api | None:
        """The API spoken to the server; None until it is known."""
        return self._apis[0] if len(self._apis) == 1 else None

    @property
    def sent(self) -> SentRequest | None:
        """The last request that was answered."""
        return self._sessions[self._apis[0]].sent if self._apis[0] in self._sessions else None

    @asynccontextmanager
    async def begin(
        self,
        name: str,
        timeout: float | Deadline,  # noqa: ASYNC109
        retries: Retries,
    ) -> AsyncIterator[CallState]:
        """Bound the block by the deadline, whatever it awaits; errors say what it was doing.

        Where the program has set up OpenTelemetry, the block is a span of that name.
        """
        deadline = as_deadline(timeout)
        self._connections.require_open()
        parent = self._connection.traceparent
        span = CallSpan.begin(name, self.model, parent)
        ids = CallIds(Trace.following(parent) if span is None else span.trace)
        state = CallState(deadline, ids, retries, span)
        recorded = nullcontext() if span is None else span.recorded(ids.request_id)
        try:
            with recorded:
                async with _bounded(state):
                    yield state
        except MlserveError as error:
            error.details |= state.details()
            if isinstance(error, Transient):
                error.message = state.with_attempts(error.message)
            raise

    async def ask(self, ask: Callable[[ModelSession], Awaitable[T]], state: CallState) -> T:
        """Return the answer in the server's API, which is found by trying and then remembered."""
        model = self.model or await self._find_model(state)
        first: NotSpoken | None = None
        for api in self._apis:
            session = self._session(api, model)
            try:
                answer = await ask(session)
            except NotSpoken as error:
                first = first or error
                continue
            except ConnectionLost as error:
                if first is None or session.is_spoken:
                    raise
                # It answered the first request and hangs up on the next: the first says more.
                raise first.refusal from error
            self._apis = (api,)
            return answer
        assert first is not None  # there is always an API to try
        raise first.refusal from first

    async def _find_model(self, state: CallState) -> str:
        """Return the server's only model, and keep it as this client's."""
        from mlserve.client.server_info import find_model

        self.model = await find_model(Session(self._connections), state)
        return self.model

    def _session(self, api: Api, model: str) -> ModelSession:
        if api not in self._sessions:
            reference = ModelRef(model, self._connection.version)
            session = open_session(api, reference, self._connections)
            session.is_spoken = api == self._connection.api  # the user says so
            session.throttle = throttle_for(self._connection, model)
            self._sessions[api] = session
        return self._sessions[api]

    def about(self, answer: Answer, state: CallState) -> dict[str, Any]:
        """Return what `Prediction` and `Outputs` both have about a call."""
        wanted = self._connection.version
        return {
            "model": self.model or "",
            "version": wanted if answer.version is None else answer.version,
            "endpoint": str(self._connection.endpoint),
            "protocol": self._connection.endpoint.protocol,
            "api": self._apis[0],
            "timings": state.timings(answer.server_ms),
            "has_random_weights": answer.has_random_weights,
            "served_by": answer.served_by,
            "rungs": answer.rungs,
            "request_id": state.ids.request_id,
            "trace_id": state.ids.trace.id,
            "retries": tuple(state.retries),
        }

    def require_version(self, answered: int | None) -> None:
        """Raise NotFound if another version answered than was requested."""
        wanted = self._connection.version
        if None not in (wanted, answered) and wanted != answered:
            raise NotFound(
                f"version {wanted} of {self.model} was asked for, but version {answered} "
                f"answered at {self._connection.endpoint}",
                hint="see the versions there with mlserve status; leave {version} out to take the "
                "server's choice",
            )


def as_deadline(timeout: float | Deadline) -> Deadline:
    """Return the deadline itself, or one `timeout` seconds from now. Raises UsageError."""
    return timeout if isinstance(timeout, Deadline) else Deadline.after(timeout)


@asynccontextmanager
async def _bounded(state: CallState) -> AsyncIterator[None]:
    """End the block at the deadline; the error says what was being done."""
    try:
        async with asyncio.timeout(state.require()):
            yield
    except TimeoutError:
        raise state.deadline.exceeded(state.doing) from None
