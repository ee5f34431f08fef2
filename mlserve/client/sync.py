"""The synchronous client: the asynchronous one on a background thread's event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from mlserve.client.access import Tls
from mlserve.client.aio import (
    DEFAULT_MAX_ANSWER_BYTES,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT,
    AsyncClient,
    as_deadline,
)
from mlserve.client.answers import ModelMetadata, Prediction, ServerLoad, VersionStatus
from mlserve.client.endpoint import Endpoint, Protocol
from mlserve.client.reading import Image
from mlserve.client.retries import Retries
from mlserve.client.wire import Api
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded
from mlserve.system import run_on_loop

T = TypeVar("T")
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
        protocol: Protocol | None = None,
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
