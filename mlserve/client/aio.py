"""The asynchronous client: plans, asks, and reads answers; each call under one total deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

from mlserve.client import planning
from mlserve.client.answers import ModelMetadata, Prediction, Timings, VersionStatus
from mlserve.client.connecting import connect
from mlserve.client.endpoint import Endpoint, Protocol
from mlserve.client.outcome import labelled
from mlserve.client.reading import Image, name_of, read_image
from mlserve.client.refusals import Unreadable, not_an_answer, refuses_plan
from mlserve.client.wire import Answer, Call, ModelRef, Plan, Reply, Watch
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, UsageError

DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take in all."""
DEFAULT_MODEL = "inception_v3"


class AsyncClient:
    """A client of one model on one server, for use on an event loop.

    `endpoint` is `host:port` (gRPC), `grpc://host:port`, or `http://host:port` (REST); `protocol`
    overrides what `host:port` means. `version` None leaves the choice to the server. Nothing is
    connected until the first call; calls may run at the same time. Raises UsageError for an
    endpoint that is none.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: Protocol | None = None,
        model: str | None = None,
        version: int | None = None,
    ) -> None:
        self.endpoint = Endpoint.parse(endpoint, protocol)
        self._model = ModelRef(model or DEFAULT_MODEL, version)
        self._adapter, self._transport = connect(self.endpoint)
        self._plan = planning.FIRST
        self._is_plan_proven = False

    @property
    def model(self) -> str:
        """The name of the model that is asked."""
        return self._model.name

    async def predict(
        self,
        image: Image,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        top_k: int = 5,
    ) -> Prediction:
        """The label of an image, with the `top_k` best scores when the server offers scores.

        `timeout` is total, in seconds: it covers reading the file, connecting, and the answer.
        Raises the errors of `mlserve.errors`: DeadlineExceeded, Unavailable, Overloaded,
        InferenceFailed, or UsageError and its kinds for what is wrong with the call.
        """
        if top_k < 1:
            raise UsageError(f"top_k must be at least 1, not {top_k}", hint="give --top-k 5")
        deadline = as_deadline(timeout)
        async with _within(deadline) as watch:
            watch.enter("read", f"reading {name_of(image)}")
            data = await read_image(image)
            reply = await self._ask(data, deadline, watch)
            with self._reading():
                answer = self._adapter.read_answer(reply.body)
            watch.leave()
            return self._prediction(answer, reply, top_k, watch, deadline)

    async def metadata(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> ModelMetadata:
        """The signatures of the model. Raises as `predict` does."""
        deadline = as_deadline(timeout)
        async with _within(deadline) as watch:
            return await self._fetch_metadata(deadline, watch)

    async def status(
        self,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
    ) -> tuple[VersionStatus, ...]:
        """The versions of the model and their states, latest first. Raises as `predict` does."""
        deadline = as_deadline(timeout)
        async with _within(deadline) as watch:
            call = self._adapter.status_call(self._model)
            reply = await self._transport.send(call, deadline, watch)
            with self._reading():
                return self._adapter.read_status(reply.body)

    async def close(self) -> None:
        """Closes the connection; calls that still run fail."""
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

    async def _ask(self, image: bytes, deadline: Deadline, watch: Watch) -> Reply:
        """The server's reply; a first refusal of the signature costs one look at the metadata."""
        plan = self._plan
        try:
            reply = await self._transport.send(self._call(plan, image), deadline, watch)
        except MlserveError as error:
            if self._is_plan_proven or not refuses_plan(error):
                raise
            plan = planning.choose(await self._fetch_metadata(deadline, watch))
            if plan == self._plan:
                raise  # the server does have it: the refusal was about something else
            reply = await self._transport.send(self._call(plan, image), deadline, watch)
        self._plan, self._is_plan_proven = plan, True
        return reply

    def _call(self, plan: Plan, image: bytes) -> Call:
        return self._adapter.predict_call(self._model, plan, image)

    async def _fetch_metadata(self, deadline: Deadline, watch: Watch) -> ModelMetadata:
        call = self._adapter.metadata_call(self._model)
        reply = await self._transport.send(call, deadline, watch)
        with self._reading():
            return self._adapter.read_metadata(self._model, reply.body)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns what an adapter cannot read into an error that names the endpoint."""
        try:
            yield
        except Unreadable as error:
            raise not_an_answer(self.endpoint, error) from error

    def _prediction(
        self, answer: Answer, reply: Reply, top_k: int, watch: Watch, deadline: Deadline
    ) -> Prediction:
        label, scores = labelled(answer.outputs, top_k)
        began = deadline.expires_at - deadline.timeout
        return Prediction(
            label=label,
            scores=scores,
            model=self._model.name,
            version=self._model.version if answer.version is None else answer.version,
            endpoint=str(self.endpoint),
            protocol=self.endpoint.protocol,
            timings=Timings(**watch.spent, total=(time.monotonic() - began) * 1000),
            has_random_weights=reply.has_random_weights,
        )


def as_deadline(timeout: float | Deadline) -> Deadline:
    """The deadline itself, or the one `timeout` seconds from now. Raises UsageError."""
    return timeout if isinstance(timeout, Deadline) else Deadline.after(timeout)


@asynccontextmanager
async def _within(deadline: Deadline) -> AsyncIterator[Watch]:
    """Bounds the body by the deadline, whatever it awaits; the error says what it was doing."""
    watch = Watch()
    try:
        async with asyncio.timeout(deadline.require(watch.doing)):
            yield watch
    except TimeoutError:
        raise deadline.exceeded(watch.doing) from None
