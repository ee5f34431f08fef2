"""The asynchronous client; every call has one total deadline."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from mlserve.client.adapter import ImageRequest, SentRequest
from mlserve.client.answers import (
    Answer,
    ModelMetadata,
    Prediction,
    ServerLoad,
    VersionStatus,
    choose_label,
    shortfall,
)
from mlserve.client.call import Image, name_of, read_image
from mlserve.client.connections import Connections
from mlserve.client.endpoint import (
    Api,
    Connection,
    ConnectionOptions,
    Endpoint,
    ProtocolName,
    shows_options,
)
from mlserve.client.model_calls import ModelCalls, as_deadline
from mlserve.client.proxies import proxy_to
from mlserve.client.refusals import NotSpoken
from mlserve.client.retries import ONCE, CallState, Retries
from mlserve.client.session import ModelSession, Session
from mlserve.deadline import Deadline, is_count
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, NotFound, UsageError

if TYPE_CHECKING:
    from mlserve.admission.recording import Recording
    from mlserve.client.inference import Inference
    from mlserve.client.outputs import Outputs
    from mlserve.wire.replicas import ReplicaSet
    from mlserve.wire.rollouts import Rollouts

T = TypeVar("T")
Item = TypeVar("Item")
DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take in all."""


class AsyncClient:
    """A client of one model on one server, for use on an event loop.

    `endpoint` is `host:port` (gRPC), `grpc://host:port`, or `http://host:port` (REST), with TLS
    `grpcs://` or `https://`; `protocol` overrides what `host:port` means, and `tls` makes it use
    TLS. `model` None asks the server once for its model; it must serve exactly one. `version` None
    leaves the choice to the server. `api` is tfs (TensorFlow Serving, version 1), oip (Open
    Inference Protocol, version 2: Triton, KServe, MLServer) or torchserve; None tries them in this
    order until the server knows one.

    `token` is sent with each request; a UserWarning is given if that crosses a network without TLS.
    `retries` apply to all calls but `status` and `load`. `max_answer_bytes` limits the size of an
    answer. `traceparent` is the W3C trace that the calls belong to; None takes that of the current
    span, if the program has set up OpenTelemetry, else the environment's TRACEPARENT, else each
    call begins a trace. With OpenTelemetry each call is recorded as a span. `priority` is
    sheddable, default or critical: under overload, an mlserve server refuses the less important
    calls first. `throttle` spares a server that refuses calls: of those that it would most likely
    refuse too, most are not sent and raise Overloaded at once. All processes of a user on a host
    know of it together. `probe` says that the calls only try whether the server answers, so that an
    mlserve server does not record them (`--record`).

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
        self._calls = ModelCalls(self._connection, self._connections)
        self._inferences: dict[ModelSession, Inference] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.endpoint)!r}, model={self.model!r})"

    @property
    def endpoint(self) -> Endpoint:
        """The server's address."""
        return self._connection.endpoint

    @property
    def model(self) -> str | None:
        """The name of the model; None until it is known."""
        return self._calls.model

    @property
    def retries(self) -> Retries:
        """How calls are retried that name no policy of their own."""
        return self._connection.retries

    @property
    def api(self) -> Api | None:
        """The API spoken to the server; None until it is known."""
        return self._calls.api

    @property
    def sent(self) -> SentRequest | None:
        """The last request that was answered, to be encoded anew (`mlserve bench`)."""
        return self._calls.sent

    async def predict(
        self,
        image: Image,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        top_k: int | None = None,
        retries: Retries | None = None,
    ) -> Prediction:
        """Return the label of an image, with the `top_k` best scores if the server offers scores.

        `top_k` can be as large as the number of classes. None takes the best five, or as many as
        the server offers. If an answer has fewer than requested, `shortfall` says why. `timeout` is
        the total in seconds: reading the file, connecting, and the answer. `retries` replaces the
        client's own policy for this call. Raises the errors of
        `mlserve.errors`: DeadlineExceeded, Unavailable, Overloaded, InferenceFailed, or UsageError
        and its kinds for an invalid call.
        """
        check_top_k(top_k)
        async with self._calls.begin("predict", timeout, retries or self.retries) as state:
            state.enter("read", f"reading {name_of(image)}")
            request = ImageRequest(await read_image(image), top_k)
            answer = await self._calls.ask(lambda session: session.predict(request, state), state)
            return self._prediction(answer, request, state)

    async def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        retries: Retries | None = None,
    ) -> Outputs:
        """Return the outputs of a signature of the model, for any inputs.

        `inputs` are by name: numpy arrays (or what numpy reads as one), nested lists, numbers,
        `str` and `bytes`. They are checked against the metadata before they are sent: names,
        missing inputs, element types, ranks. Numbers in lists become those of the model, whole
        numbers only where it takes integers; an array is converted only if each value stays the
        same, but for float64 to float32. `signature` None is `serving_default`, or the only one.
        `outputs` names those that are wanted; None is all of them. `timeout` is the total in
        seconds; for `retries` see `predict`. Raises InvalidInput for inputs that do not fit, and as
        `predict` does.
        """
        from mlserve.client.question import Question  # predict needs none of it

        question = Question(inputs, signature, outputs)
        async with self._calls.begin("infer", timeout, retries or self.retries) as state:
            answer = await self._calls.ask(
                lambda session: self._inference(session).ask(question, state), state
            )
            return self._outputs(answer, state)

    async def prepare(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> SentRequest:
        """Return the request that `infer` sends, and do not send it (`mlserve bench`).

        The server is asked at most for its signatures. Raises as `infer` does.
        """
        from mlserve.client.question import Question

        question = Question(inputs, signature, outputs)
        async with self._calls.begin("prepare", timeout, self.retries) as state:
            return await self._calls.ask(
                lambda session: self._inference(session).prepare(question, state), state
            )

    def _inference(self, session: ModelSession) -> Inference:
        from mlserve.client.inference import inference_over

        return self._inferences.setdefault(session, inference_over(session))

    def predict_many(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        parallel: int | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,
        top_k: int | None = None,
    ) -> AsyncGenerator[Prediction | MlserveError]:
        """Yield the prediction of each image, in their order, some calls at once.

        An image that fails yields its error in place and stops no other. At most `parallel` calls
        run at once; None takes four for each that the server runs at once, and four in all for a
        server that does not tell. Images are taken as there is room. A `timeout` in seconds is that
        of each call, from when it begins; a Deadline is that of all. Leaving the loop ends what
        runs once the iterator is closed: `async with contextlib.aclosing(...)`. An overloaded
        server is asked again until the deadline: many calls slow down to what it takes.
        """
        check_top_k(top_k)

        def ask(image: Image) -> Coroutine[Any, Any, Prediction]:
            return self.predict(
                image, timeout=timeout, top_k=top_k, retries=self.retries.for_many()
            )

        return self._many("predict_many", images, ask, parallel, timeout)

    def infer_many(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        parallel: int | None = None,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,
    ) -> AsyncGenerator[Outputs | MlserveError]:
        """Yield the outputs for each mapping of inputs, as `infer` returns them.

        For their order, errors, `parallel` and `timeout` see `predict_many`.
        """

        def ask(inputs: Mapping[str, Any]) -> Coroutine[Any, Any, Outputs]:
            return self.infer(
                inputs,
                signature=signature,
                outputs=outputs,
                timeout=timeout,
                retries=self.retries.for_many(),
            )

        return self._many("infer_many", items, ask, parallel, timeout)

    async def metadata(
        self,
        *,
        signature: str | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ModelMetadata:
        """Return the signatures of the model. Raises as `predict` does.

        The Open Inference Protocol describes one: on mlserve's own servers the named `signature`,
        which the other API ignores.
        """
        async with self._calls.begin("metadata", timeout, self._connection.retries) as state:
            name = signature or ""
            metadata = await self._calls.ask(lambda session: session.metadata(state, name), state)
            self._calls.require_version(metadata.version)
            return metadata

    async def status(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> tuple[VersionStatus, ...]:
        """Return the model's versions and their states, latest first. Raises as `predict` does."""
        async with self._calls.begin("status", timeout, ONCE) as state:
            return await self._calls.ask(lambda session: session.status(state), state)

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
        async with self._calls.begin("load", timeout, ONCE) as state:
            try:
                return read_load(protocol, await self._connections.send(load_call(protocol), state))
            except (NotSpoken, UsageError, InferenceFailed):
                return None

    async def replicas(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ReplicaSet | None:
        """Return the replicas behind the address; None if the server is one process.

        Raises UsageError for a gRPC endpoint, as only REST has it, and otherwise as `load` does.
        """
        from mlserve.client.replicas import read_replicas, replicas_call

        call = replicas_call(self.endpoint)
        async with self._calls.begin("replicas", timeout, ONCE) as state:
            try:
                return read_replicas(await self._connections.send(call, state))
            except (NotSpoken, NotFound, InvalidInput):
                return None

    async def decisions(
        self,
        request_id: str = "",
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> Recording:
        """Return what the server decided on calls with that id, or on all that it remembers.

        Raises UsageError for a server that does not tell, and otherwise as `predict` does.
        """
        from mlserve.client.decisions import decisions_call, keeps_none, read_decisions

        protocol = self.endpoint.protocol
        session = Session(self._connections)
        read = partial(read_decisions, protocol)
        async with self._calls.begin("decisions", timeout, self._connection.retries) as state:
            try:
                call = decisions_call(protocol, request_id)
                return await session.ask_with_retries(call, read, state)
            except NotSpoken as error:
                raise keeps_none(self.endpoint) from error.refusal
            except NotFound as error:
                raise keeps_none(self.endpoint) from error

    async def rollouts(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> Rollouts | None:
        """Return what the server's shadows and splits have shown; None if it does not tell.

        Raises as `load` does.
        """
        from mlserve.client.rollouts import read_rollouts, rollouts_call

        protocol = self.endpoint.protocol
        async with self._calls.begin("rollouts", timeout, ONCE) as state:
            try:
                reply = await self._connections.send(rollouts_call(protocol), state)
                return read_rollouts(protocol, reply)
            except (NotSpoken, NotFound, InvalidInput):
                return None

    async def capacity(self, timeout: float | Deadline) -> int:  # noqa: ASYNC109
        """Return how many calls to make at once, as `predict_many` does without `parallel`."""
        from mlserve.client.many import capacity_of

        try:
            return capacity_of(await self.load(timeout=timeout))
        except MlserveError:
            return capacity_of(None)  # the calls themselves will say what is wrong

    def require_open(self) -> None:
        """Raise UsageError once the client has been closed."""
        self._connections.require_open()

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

    def _prediction(self, answer: Answer, request: ImageRequest, state: CallState) -> Prediction:
        label, scores = choose_label(answer.outputs, request.count)
        self._calls.require_version(answer.version)
        return Prediction(
            label=label,
            scores=scores,
            shortfall=shortfall(answer, request.top_k),
            has_all_classes=answer.has_all_classes,
            **self._calls.about(answer, state),
        )

    def _many(
        self,
        name: str,
        items: Iterable[Item] | AsyncIterable[Item],
        ask: Callable[[Item], Coroutine[Any, Any, T]],
        parallel: int | None,
        timeout: float | Deadline,
    ) -> AsyncGenerator[T | MlserveError]:
        from mlserve.client.many import async_outcomes, check_many  # one call needs neither

        check_many(name, items, parallel)
        as_deadline(timeout)
        self.require_open()

        async def at_once() -> int:
            return await self.capacity(timeout) if parallel is None else parallel

        return async_outcomes(items, lambda item: asyncio.ensure_future(ask(item)), at_once)

    def _outputs(self, answer: Answer, state: CallState) -> Outputs:
        from mlserve.client.outputs import Outputs, values_of  # predict needs neither

        self._calls.require_version(answer.version)
        values = values_of(answer.outputs)
        return Outputs(values, signature=answer.signature, **self._calls.about(answer, state))


def check_top_k(top_k: int | None) -> None:
    """Raise UsageError unless it is None or a number of classes."""
    if top_k is not None and not is_count(top_k):
        raise UsageError(
            f"top_k must be at least 1, not {top_k!r}", hint="give for example {top_k 5}"
        )
