"""The asynchronous client: finds out what the server speaks; each call has one total deadline."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, get_args

from mlserve.client.adapter import Answer, Api, ModelRef, Question, Reply
from mlserve.client.answers import ModelMetadata, Prediction, ServerLoad, VersionStatus
from mlserve.client.call import ONCE, CallIds, CallState, Image, Retries, Trace, name_of, read_image
from mlserve.client.codecs import labelled, shortfall
from mlserve.client.connections import Connections, open_dialogue, open_transport
from mlserve.client.endpoint import Access, Endpoint, ProtocolName, Tls
from mlserve.client.proxies import proxy_to
from mlserve.client.refusals import ConnectionLost, NotSpoken
from mlserve.client.session import Dialogue, Line
from mlserve.deadline import Deadline
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    MlserveError,
    NotFound,
    Transient,
    UsageError,
)
from mlserve.threads import run_on_loop

T = TypeVar("T")
DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take in all."""
DEFAULT_RETRIES = Retries()
DEFAULT_MAX_ANSWER_BYTES = 64 * 2**20


class AsyncClient:
    """A client of one model on one server, for use on an event loop.

    `endpoint` is `host:port` (gRPC), `grpc://host:port`, or `http://host:port` (REST), with TLS
    `grpcs://` or `https://`; `protocol` overrides what `host:port` means, and `tls` makes it speak
    TLS. `model` None asks the server, which must serve one model and tell its name, once.
    `version` None leaves the choice to the server. `api` is tfs (TensorFlow Serving, version
    1) or oip (Open Inference Protocol, version 2: Triton, KServe, MLServer); None tries the one
    and, at a server that does not know it, the other.

    `token` is sent with each request; a UserWarning says so when that is over a network without
    TLS. `retries` are those of `predict` and `metadata`. `max_answer_bytes` bounds what is read of
    an answer. `traceparent` is the W3C trace that the calls belong to; None takes the environment's
    TRACEPARENT, else each call begins a trace.

        async with AsyncClient("127.0.0.1:8500") as client:
            answers = await asyncio.gather(*(client.predict(path) for path in paths))

    Nothing is connected until the first call; calls may run at the same time. Each event loop and
    each forked process gets connections of its own; after `close` no call can be made. Raises
    UsageError for an argument that is not what it must be.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: ProtocolName | None = None,
        model: str | None = None,
        version: int | None = None,
        api: Api | None = None,
        token: str | None = None,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        max_answer_bytes: int = DEFAULT_MAX_ANSWER_BYTES,
        traceparent: str | None = None,
    ) -> None:
        _check_kinds(
            endpoint=(endpoint, str),
            model=(model, str),
            version=(version, int),
            token=(token, str),
            tls=(tls, Tls),
            retries=(retries, Retries),
            max_answer_bytes=(max_answer_bytes, int),
        )
        known: tuple[Api, ...] = get_args(Api)
        if api is not None and api not in known:
            raise UsageError(f"there is no API {api!r}", hint=f"choose {' or '.join(known)}")
        self.endpoint = Endpoint.parse(endpoint, protocol, is_secure=tls is not None)
        access = Access(token, tls)
        exposure = access.exposure(self.endpoint)
        if exposure:
            warnings.warn(exposure, stacklevel=2)
        self._model = None if model is None else ModelRef(model, version)
        self._version = version
        proxy_to(self.endpoint)  # one that cannot be used is told now, not at the first call
        self._transport = Connections(
            partial(open_transport, self.endpoint, access, max_answer_bytes)
        )
        self._retries = retries
        self._traceparent = traceparent
        Trace.following(traceparent)
        self._apis = known if api is None else (api,)
        self._dialogues: dict[Api, Dialogue] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.endpoint)!r}, model={self.model!r})"

    @property
    def model(self) -> str | None:
        """The name of the model that is asked; None until that has been found out."""
        return None if self._model is None else self._model.name

    @property
    def api(self) -> Api | None:
        """What is spoken to the server; None until that has been found out."""
        return self._apis[0] if len(self._apis) == 1 else None

    async def predict(
        self,
        image: Image,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        top_k: int | None = None,
    ) -> Prediction:
        """The label of an image, with the `top_k` best scores when the server offers scores.

        `top_k` can be as large as the number of classes. None takes the best five, or as many as
        the server gives of them. An answer with fewer than were asked for says why: `shortfall`.
        `timeout` is total, in seconds: it covers reading the file, connecting, and the answer.
        Raises the errors of `mlserve.errors`: DeadlineExceeded, Unavailable, Overloaded,
        InferenceFailed, or UsageError and its kinds for what is wrong with the call.
        """
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise UsageError(
                f"top_k must be at least 1, not {top_k!r}", hint="give for example {top_k 5}"
            )
        deadline = as_deadline(timeout)
        async with self._within(deadline) as state:
            state.enter("read", f"reading {name_of(image)}")
            data = await read_image(image)
            question = Question(data, top_k)

            async def ask(dialogue: Dialogue) -> tuple[Answer, Reply]:
                if self.api is None:
                    await dialogue.recognise(deadline, state)
                return await dialogue.predict(question, deadline, state)

            answer, reply = await self._converse(ask, deadline, state)
            return self._prediction(answer, reply, question, state)

    async def metadata(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ModelMetadata:
        """The signatures of the model. Raises as `predict` does."""
        deadline = as_deadline(timeout)
        async with self._within(deadline) as state:
            found = await self._converse(
                lambda dialogue: dialogue.metadata(deadline, state), deadline, state
            )
            self._require_asked(found.version)
            return found

    async def status(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> tuple[VersionStatus, ...]:
        """The versions of the model and their states, latest first. Raises as `predict` does."""
        deadline = as_deadline(timeout)
        async with self._within(deadline, ONCE) as state:
            return await self._converse(
                lambda dialogue: dialogue.status(deadline, state), deadline, state
            )

    async def load(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ServerLoad | None:
        """What the server does now; None from a server of another maker, which does not say.

        Raises DeadlineExceeded and Unavailable.
        """
        from mlserve.client.session import load_call, read_load

        deadline, protocol = as_deadline(timeout), self.endpoint.protocol
        async with self._within(deadline, ONCE) as state:
            try:
                reply = await self._transport.send(load_call(protocol), deadline, state)
            except (NotSpoken, UsageError, InferenceFailed):
                return None
            return read_load(protocol, reply)

    async def close(self) -> None:
        """Closes the connections; calls that still run fail, and no other can be made."""
        await self._transport.close()

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
    async def _within(
        self, deadline: Deadline, retries: Retries | None = None
    ) -> AsyncIterator[CallState]:
        """Bounds the body by the deadline, whatever it awaits; errors say what it was doing."""
        self._transport.require_open()
        ids = CallIds(Trace.following(self._traceparent))
        state = CallState(ids, deadline.began_at, self._retries if retries is None else retries)
        try:
            async with _bounded(deadline, state):
                yield state
        except MlserveError as error:
            error.details |= state.details()
            if isinstance(error, Transient):
                error.message = state.retold(error.message)
            raise

    async def _converse(
        self, ask: Callable[[Dialogue], Awaitable[T]], deadline: Deadline, state: CallState
    ) -> T:
        """The answer in the server's API. It is found out by trying, and then remembered."""
        model = self._model or await self._only_model(deadline, state)
        first: NotSpoken | None = None
        for api in self._apis:
            dialogue = self._dialogue(api, model)
            try:
                found = await ask(dialogue)
            except NotSpoken as error:
                first = first or error
                continue
            except ConnectionLost as error:
                if first is None or dialogue.is_spoken:
                    raise
                # It answered the first question and hangs up on the next: the answer says more.
                raise first.refusal from error
            self._apis = (api,)
            return found
        assert first is not None  # there is always an API to try
        raise first.refusal from first

    async def _only_model(self, deadline: Deadline, state: CallState) -> ModelRef:
        """The one model of the server, from now on that of this client."""
        from mlserve.client.model_index import find_model

        line = Line(self.endpoint, self._transport)
        name = await find_model(self.endpoint, line, deadline, state)
        self._model = ModelRef(name, self._version)
        return self._model

    def _dialogue(self, api: Api, model: ModelRef) -> Dialogue:
        found = self._dialogues.get(api)
        if found is None:
            found = open_dialogue(api, self.endpoint, self._transport, model)
            self._dialogues[api] = found
        return found

    def _prediction(
        self, answer: Answer, reply: Reply, question: Question, state: CallState
    ) -> Prediction:
        label, scores = labelled(answer.outputs, question.count)
        version = reply.version if answer.version is None else answer.version
        self._require_asked(version)
        return Prediction(
            label=label,
            scores=scores,
            model=self.model or "",
            version=self._version if version is None else version,
            endpoint=str(self.endpoint),
            protocol=self.endpoint.protocol,
            api=self._apis[0],
            timings=state.timings(reply.server_ms),
            has_random_weights=reply.has_random_weights,
            request_id=state.ids.request_id,
            trace_id=state.ids.trace.id,
            retries=tuple(state.retries),
            shortfall=shortfall(answer, question),
        )

    def _require_asked(self, version: int | None) -> None:
        """Raises NotFound when another version answered than was asked for."""
        asked = self._version
        if None not in (asked, version) and asked != version:
            raise NotFound(
                f"version {asked} of {self.model} was asked for, but version {version} "
                f"answered at {self.endpoint}",
                hint="see the versions there with mlserve status; leave {version} out to take the "
                "server's choice",
            )


def as_deadline(timeout: float | Deadline) -> Deadline:
    """The deadline itself, or the one `timeout` seconds from now. Raises UsageError."""
    return timeout if isinstance(timeout, Deadline) else Deadline.after(timeout)


def _check_kinds(**given: tuple[object, type]) -> None:
    """Raises UsageError for an argument that is neither None nor of its type."""
    for name, (value, kind) in given.items():
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            continue
        shown = type(value).__name__ if name == "token" else repr(value)
        raise UsageError(
            f"{name} must be {_AS_WORDS.get(kind, kind.__name__)}, not {shown}",
            hint="see help(mlserve.Client)",
        )


_AS_WORDS = {int: "a whole number", str: "text", Retries: "mlserve.Retries", Tls: "mlserve.Tls"}


@asynccontextmanager
async def _bounded(deadline: Deadline, state: CallState) -> AsyncIterator[None]:
    """Ends the body at the deadline; the error says what the state was told of it."""
    try:
        async with asyncio.timeout(deadline.require(state.doing)):
            yield
    except TimeoutError:
        raise deadline.exceeded(state.doing) from None


_CLOSING = 0.1
"""Seconds that closing a connection may take before it is left to the end of the process."""


class Client:
    """A client of one model on one server, for code without an event loop, or beside one.

        with mlserve.Client("127.0.0.1:8500", model="inception_v3") as client:
            answer = client.predict("horse.jpg", timeout=5)
            print(answer.label, answer.scores[0].score)

    `endpoint` is `host:port` (gRPC) or `http://host:port` (REST), with TLS `grpcs://` or
    `https://`. The other parameters are those of `AsyncClient`: `protocol`, `model`, `version`,
    `api`, `token`, `tls`, `retries`, `max_answer_bytes`, `traceparent`.

    Every error is a `mlserve.MlserveError` with a `hint`: DeadlineExceeded when there is no answer
    in time, Unavailable, Overloaded, InferenceFailed, or UsageError and its kinds for what is wrong
    with the call.

    It works inside a running event loop too (as in a notebook), from several threads at once, and
    in a process that was forked after it was used. After `close`, or the end of its `with` block,
    no call can be made.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: ProtocolName | None = None,
        model: str | None = None,
        version: int | None = None,
        api: Api | None = None,
        token: str | None = None,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        max_answer_bytes: int = DEFAULT_MAX_ANSWER_BYTES,
        traceparent: str | None = None,
    ) -> None:
        self._client = AsyncClient(
            endpoint,
            protocol=protocol,
            model=model,
            version=version,
            api=api,
            token=token,
            tls=tls,
            retries=retries,
            max_answer_bytes=max_answer_bytes,
            traceparent=traceparent,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.endpoint)!r}, model={self.model!r})"

    @property
    def endpoint(self) -> Endpoint:
        """Where the server is."""
        return self._client.endpoint

    @property
    def model(self) -> str | None:
        """The name of the model that is asked; None until that has been found out."""
        return self._client.model

    @property
    def api(self) -> Api | None:
        """What is spoken to the server; None until that has been found out."""
        return self._client.api

    def predict(
        self, image: Image, *, timeout: float | Deadline = DEFAULT_TIMEOUT, top_k: int | None = None
    ) -> Prediction:
        """The label of an image, with the `top_k` best scores when the server offers scores.

        `image` is a path, the bytes of a JPEG or PNG file, or an open binary file. `timeout` is the
        whole time in seconds: reading the file, connecting, the answer. `top_k` None takes the best
        five, or as many as the server gives of them; `shortfall` says why there are fewer than were
        asked for. Raises the errors that the class names.
        """
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.predict(image, timeout=deadline, top_k=top_k))

    def metadata(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> ModelMetadata:
        """The signatures of the model."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.metadata(timeout=deadline))

    def status(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> tuple[VersionStatus, ...]:
        """The versions of the model and their states, latest first."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.status(timeout=deadline))

    def load(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> ServerLoad | None:
        """What the server does now; None from a server of another maker, which does not say."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.load(timeout=deadline))

    def close(self) -> None:
        """Closes the connections; no call can be made after that."""
        deadline = Deadline.after(_CLOSING)
        try:
            self._run(deadline, self._client.close())
        except DeadlineExceeded:
            return  # a peer that does not even close must not hold the caller

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
