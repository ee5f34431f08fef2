"""The synchronous and the asynchronous client; every call has one total deadline."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from mlserve.background import run_on_loop
from mlserve.client.adapter import ImageRequest, ModelRef, check_top_k
from mlserve.client.answers import (
    Answer,
    ModelMetadata,
    Prediction,
    ServerLoad,
    VersionStatus,
    choose_label,
    shortfall,
)
from mlserve.client.call import CallIds, Image, Trace, name_of, read_image
from mlserve.client.connections import Connections
from mlserve.client.endpoint import (
    APIS,
    Api,
    Connection,
    ConnectionOptions,
    Endpoint,
    ProtocolName,
    shows_options,
)
from mlserve.client.proxies import proxy_to
from mlserve.client.refusals import ConnectionLost, NotSpoken
from mlserve.client.retries import ONCE, CallState, Retries
from mlserve.client.session import ModelSession, Session, TfsSession
from mlserve.deadline import Deadline
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    MlserveError,
    NotFound,
    Transient,
    UsageError,
)

T = TypeVar("T")
DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take in all."""
_CLOSING = 0.1
"""Seconds to wait for a connection to close before leaving it to the end of the process."""


class AsyncClient:
    """A client of one model on one server, for use on an event loop.

    `endpoint` is `host:port` (gRPC), `grpc://host:port`, or `http://host:port` (REST), with TLS
    `grpcs://` or `https://`; `protocol` overrides what `host:port` means, and `tls` makes it use
    TLS. `model` None asks the server once for its model; it must serve exactly one. `version` None
    leaves the choice to the server. `api` is tfs (TensorFlow Serving, version 1) or oip (Open
    Inference Protocol, version 2: Triton, KServe, MLServer); None tries one, then the other if the
    server does not know the first.

    `token` is sent with each request; a UserWarning is given if that crosses a network without TLS.
    `retries` apply to `predict` and `metadata`. `max_answer_bytes` limits the size of an answer.
    `traceparent` is the W3C trace that the calls belong to; None takes the environment's
    TRACEPARENT, else each call begins a trace.

        async with AsyncClient("127.0.0.1:8500") as client:
            answers = await asyncio.gather(*(client.predict(path) for path in paths))

    Nothing is connected until the first call; calls may run concurrently. Each event loop and each
    forked process gets its own connections; after `close` no call can be made. Raises UsageError
    for an invalid argument.
    """

    @shows_options
    def __init__(
        self,
        endpoint: str,
        *,
        protocol: ProtocolName | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._connection = Connection.to(endpoint, protocol, **options)
        if exposure := self._connection.exposure():
            warnings.warn(exposure, stacklevel=2)
        proxy_to(self.endpoint)  # one that cannot be used is reported now, not at the first call
        self._connections = Connections(self._connection)
        self._model = self._connection.model
        self._apis = APIS if self._connection.api is None else (self._connection.api,)
        self._sessions: dict[Api, ModelSession] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.endpoint)!r}, model={self.model!r})"

    @property
    def endpoint(self) -> Endpoint:
        """The server's address."""
        return self._connection.endpoint

    @property
    def model(self) -> str | None:
        """The name of the model; None until it is known."""
        return self._model

    @property
    def api(self) -> Api | None:
        """The API spoken to the server; None until it is known."""
        return self._apis[0] if len(self._apis) == 1 else None

    async def predict(
        self,
        image: Image,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        top_k: int | None = None,
    ) -> Prediction:
        """Return the label of an image, with the `top_k` best scores if the server offers scores.

        `top_k` can be as large as the number of classes. None takes the best five, or as many as
        the server offers. If an answer has fewer than requested, `shortfall` says why. `timeout` is
        the total in seconds: reading the file, connecting, and the answer. Raises the errors of
        `mlserve.errors`: DeadlineExceeded, Unavailable, Overloaded, InferenceFailed, or UsageError
        and its kinds for an invalid call.
        """
        check_top_k(top_k)
        async with self._call(timeout, self._connection.retries) as state:
            state.enter("read", f"reading {name_of(image)}")
            request = ImageRequest(await read_image(image), top_k)
            answer = await self._ask(lambda session: session.predict(request, state), state)
            return self._prediction(answer, request, state)

    async def metadata(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ModelMetadata:
        """Return the signatures of the model. Raises as `predict` does."""
        async with self._call(timeout, self._connection.retries) as state:
            metadata = await self._ask(lambda session: session.metadata(state), state)
            self._require_version(metadata.version)
            return metadata

    async def status(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> tuple[VersionStatus, ...]:
        """Return the model's versions and their states, latest first. Raises as `predict` does."""
        async with self._call(timeout, ONCE) as state:
            return await self._ask(lambda session: session.status(state), state)

    async def load(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ServerLoad | None:
        """Return the server's load; None from a third-party server, which does not report it.

        Raises DeadlineExceeded and Unavailable.
        """
        from mlserve.client.server_info import load_call, read_load

        protocol = self.endpoint.protocol
        async with self._call(timeout, ONCE) as state:
            try:
                return read_load(protocol, await self._connections.send(load_call(protocol), state))
            except (NotSpoken, UsageError, InferenceFailed):
                return None

    async def close(self) -> None:
        """Close the connections; running calls fail, and no more can be made."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def _call(self, timeout: float | Deadline, retries: Retries) -> AsyncIterator[CallState]:  # noqa: ASYNC109
        """Bound the block by the deadline, whatever it awaits; errors say what it was doing."""
        deadline = as_deadline(timeout)
        self._connections.require_open()
        ids = CallIds(Trace.following(self._connection.traceparent))
        state = CallState(deadline, ids, retries)
        try:
            async with _bounded(state):
                yield state
        except MlserveError as error:
            error.details |= state.details()
            if isinstance(error, Transient):
                error.message = state.with_attempts(error.message)
            raise

    async def _ask(self, ask: Callable[[ModelSession], Awaitable[T]], state: CallState) -> T:
        """Return the answer in the server's API, which is found by trying and then remembered."""
        model = self._model or await self._find_model(state)
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

        self._model = await find_model(Session(self._connections), state)
        return self._model

    def _session(self, api: Api, model: str) -> ModelSession:
        if api not in self._sessions:
            reference = ModelRef(model, self._connection.version)
            session = _open_session(api, reference, self._connections)
            session.is_spoken = api == self._connection.api  # the user says so
            self._sessions[api] = session
        return self._sessions[api]

    def _prediction(self, answer: Answer, request: ImageRequest, state: CallState) -> Prediction:
        label, scores = choose_label(answer.outputs, request.count)
        self._require_version(answer.version)
        wanted = self._connection.version
        return Prediction(
            label=label,
            scores=scores,
            model=self.model or "",
            version=wanted if answer.version is None else answer.version,
            endpoint=str(self.endpoint),
            protocol=self.endpoint.protocol,
            api=self._apis[0],
            timings=state.timings(answer.server_ms),
            has_random_weights=answer.has_random_weights,
            request_id=state.ids.request_id,
            trace_id=state.ids.trace.id,
            retries=tuple(state.retries),
            shortfall=shortfall(answer, request.top_k),
        )

    def _require_version(self, answered: int | None) -> None:
        """Raise NotFound if another version answered than was requested."""
        wanted = self._connection.version
        if None not in (wanted, answered) and wanted != answered:
            raise NotFound(
                f"version {wanted} of {self.model} was asked for, but version {answered} "
                f"answered at {self.endpoint}",
                hint="see the versions there with mlserve status; leave {version} out to take the "
                "server's choice",
            )


class Client:
    """A client of one model on one server, for code without an event loop, or beside one.

        with mlserve.Client("127.0.0.1:8500", model="inception_v3") as client:
            answer = client.predict("horse.jpg", timeout=5)
            print(answer.label, answer.scores[0].score)

    `endpoint` is `host:port` (gRPC) or `http://host:port` (REST), with TLS `grpcs://` or
    `https://`. The other parameters are those of `AsyncClient`: `protocol`, `model`, `version`,
    `api`, `token`, `tls`, `retries`, `max_answer_bytes`, `traceparent`.

    Every error is a `mlserve.MlserveError` with a `hint`: DeadlineExceeded if there is no answer in
    time, Unavailable, Overloaded, InferenceFailed, or UsageError and its kinds for an invalid call.

    It works inside a running event loop too (as in a notebook), from several threads at once, and
    in a process that was forked after it was used. After `close`, or the end of its `with` block,
    no call can be made.
    """

    @shows_options
    def __init__(
        self,
        endpoint: str,
        *,
        protocol: ProtocolName | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._client = AsyncClient(endpoint, protocol=protocol, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.endpoint)!r}, model={self.model!r})"

    @property
    def endpoint(self) -> Endpoint:
        """The server's address."""
        return self._client.endpoint

    @property
    def model(self) -> str | None:
        """The name of the model; None until it is known."""
        return self._client.model

    @property
    def api(self) -> Api | None:
        """The API spoken to the server; None until it is known."""
        return self._client.api

    def predict(
        self, image: Image, *, timeout: float | Deadline = DEFAULT_TIMEOUT, top_k: int | None = None
    ) -> Prediction:
        """Return the label of an image, with the `top_k` best scores if the server offers scores.

        `image` is a path, the bytes of a JPEG or PNG file, or an open binary file. `timeout` is the
        total in seconds: reading the file, connecting, and the answer. `top_k` None takes the best
        five, or as many as the server offers; `shortfall` says why there are fewer than requested.
        Raises the errors listed in the class's documentation.
        """
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.predict(image, timeout=deadline, top_k=top_k))

    def metadata(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> ModelMetadata:
        """Return the signatures of the model."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.metadata(timeout=deadline))

    def status(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> tuple[VersionStatus, ...]:
        """Return the versions of the model and their states, latest first."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.status(timeout=deadline))

    def load(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> ServerLoad | None:
        """Return the server's load; None from a third-party server, which does not report it."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.load(timeout=deadline))

    def close(self) -> None:
        """Close the connections; no call can be made after that."""
        deadline = Deadline.after(_CLOSING)
        try:
            self._run(deadline, self._client.close())
        except DeadlineExceeded:
            return  # a peer that never closes must not block the caller

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, deadline: Deadline, work: Coroutine[Any, Any, T]) -> T:
        return run_on_loop(deadline, f"waiting for {self.endpoint}", work)


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


def _open_session(api: Api, model: ModelRef, connections: Connections) -> ModelSession:
    """Return a session for the API, importing only what that API and protocol need.

    Sends nothing yet.
    """
    is_grpc = connections.endpoint.protocol == "grpc"
    if api == "tfs" and is_grpc:
        from mlserve.client.tfs_grpc import TfsGrpc

        return TfsSession(TfsGrpc(), model, connections)
    if api == "tfs":
        from mlserve.client.tfs_rest import TfsRest

        return TfsSession(TfsRest(), model, connections)
    from mlserve.client.oip_session import OipSession

    if is_grpc:
        from mlserve.client.oip_grpc import OipGrpc

        return OipSession(OipGrpc(), model, connections)
    from mlserve.client.oip_rest import OipRest

    return OipSession(OipRest(), model, connections)
