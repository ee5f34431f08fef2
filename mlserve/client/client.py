"""The synchronous client; every call has one total deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from mlserve.background import background_loop, run_on_loop
from mlserve.client.answers import ModelMetadata, Prediction, ServerLoad, VersionStatus
from mlserve.client.async_client import DEFAULT_TIMEOUT as DEFAULT_TIMEOUT  # noqa: PLC0414  the commands take it from here
from mlserve.client.async_client import AsyncClient, check_top_k
from mlserve.client.call import Image
from mlserve.client.endpoint import Api, ConnectionOptions, Endpoint, ProtocolName, shows_options
from mlserve.client.model_calls import as_deadline
from mlserve.client.retries import Retries
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError

if TYPE_CHECKING:
    from mlserve.admission.recording import Recording
    from mlserve.client.outputs import Outputs
    from mlserve.wire.replicas import ReplicaSet
    from mlserve.wire.rollouts import Rollouts

T = TypeVar("T")
Item = TypeVar("Item")
_CLOSING = 0.1
"""Seconds to wait for a connection to close before leaving it to the end of the process."""


class Client:
    """A client of one model on one server, for code without an event loop, or beside one.

        with mlserve.Client("127.0.0.1:8500", model="inception_v3") as client:
            answer = client.predict("horse.jpg", timeout=5)
            print(answer.label, answer.scores[0].score)
            outputs = client.infer({"x": [[5.1, 3.5, 1.4, 0.2]]}, timeout=5)  # of another model

    `endpoint` is `host:port` (gRPC) or `http://host:port` (REST), with TLS `grpcs://` or
    `https://`. The other parameters are those of `AsyncClient`: `protocol`, `model`, `version`,
    `api`, `token`, `tls`, `retries`, `max_answer_bytes`, `traceparent`, `priority`, `throttle`,
    `probe`.

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

    @property
    def retries(self) -> Retries:
        """How calls are retried that name no policy of their own."""
        return self._client.retries

    def predict(
        self,
        image: Image,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,
        top_k: int | None = None,
        retries: Retries | None = None,
    ) -> Prediction:
        """Return the label of an image, with the `top_k` best scores if the server offers scores.

        `image` is a path, the bytes of a JPEG or PNG file, or an open binary file. `timeout` is the
        total in seconds: reading the file, connecting, and the answer. `top_k` None takes the best
        five, or as many as the server offers; `shortfall` says why there are fewer than requested.
        `retries` replaces the client's own policy for this call. Raises the errors listed in the
        class's documentation.
        """
        deadline = as_deadline(timeout)
        work = self._client.predict(image, timeout=deadline, top_k=top_k, retries=retries)
        return self._run(deadline, work)

    def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,
        retries: Retries | None = None,
    ) -> Outputs:
        """Return the outputs of a signature of the model, for any inputs.

        `inputs` are by name: numpy arrays (or what numpy reads as one), nested lists, numbers,
        `str` and `bytes`. They are checked against the metadata before they are sent: names,
        missing inputs, element types, ranks. Numbers in lists become those of the model, whole
        numbers only where it takes integers; an array is converted only if each value stays the
        same, but for float64 to float32. `signature` None is `serving_default`, or the only one.
        `outputs` names those that are wanted; None is all of them. `timeout` is the total in
        seconds; for `retries` see `predict`. Raises InvalidInput for inputs that do not fit, and
        the errors listed in the class's documentation.
        """
        deadline = as_deadline(timeout)
        work = self._client.infer(
            inputs, signature=signature, outputs=outputs, timeout=deadline, retries=retries
        )
        return self._run(deadline, work)

    def predict_many(
        self,
        images: Iterable[Image],
        *,
        parallel: int | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,
        top_k: int | None = None,
    ) -> Generator[Prediction | MlserveError]:
        """Yield the prediction of each image, in their order, some calls at once.

            for path, found in zip(paths, client.predict_many(paths)):
                print(path, found if isinstance(found, MlserveError) else found.label)

        An image that fails yields its error in place and stops no other. At most `parallel` calls
        run at once; None takes four for each that the server runs at once, and four in all for a
        server that does not tell. Images are taken as there is room for them; with `parallel` 1,
        each after the outcome of the one before. A `timeout` in seconds is that of each call, from
        when it begins; a Deadline is that of all. An overloaded server is asked again until the
        deadline: many calls slow down to what it takes. Closing the iterator cancels what runs.
        """
        check_top_k(top_k)

        def ask(image: Image, deadline: Deadline) -> Coroutine[Any, Any, Prediction]:
            retries = self.retries.for_many()
            return self._client.predict(image, timeout=deadline, top_k=top_k, retries=retries)

        return self._many("predict_many", images, ask, parallel, timeout)

    def infer_many(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        parallel: int | None = None,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,
    ) -> Generator[Outputs | MlserveError]:
        """Yield the outputs for each mapping of inputs, as `infer` returns them.

        For their order, errors, `parallel` and `timeout` see `predict_many`.
        """

        def ask(inputs: Mapping[str, Any], deadline: Deadline) -> Coroutine[Any, Any, Outputs]:
            return self._client.infer(
                inputs,
                signature=signature,
                outputs=outputs,
                timeout=deadline,
                retries=self.retries.for_many(),
            )

        return self._many("infer_many", items, ask, parallel, timeout)

    def metadata(
        self, *, signature: str | None = None, timeout: float | Deadline = DEFAULT_TIMEOUT
    ) -> ModelMetadata:
        """Return the signatures of the model.

        The Open Inference Protocol describes one: on mlserve's own servers the named `signature`,
        which the other API ignores.
        """
        deadline = as_deadline(timeout)
        work = self._client.metadata(signature=signature, timeout=deadline)
        return self._run(deadline, work)

    def status(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> tuple[VersionStatus, ...]:
        """Return the versions of the model and their states, latest first."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.status(timeout=deadline))

    def load(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> ServerLoad | None:
        """Return the server's load; None from a third-party server, which does not report it."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.load(timeout=deadline))

    def replicas(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> ReplicaSet | None:
        """Return the replicas behind the address; None if the server is one process.

        Raises UsageError for a gRPC endpoint, as only REST has it.
        """
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.replicas(timeout=deadline))

    def rollouts(self, *, timeout: float | Deadline = DEFAULT_TIMEOUT) -> Rollouts | None:
        """Return what the server's shadows and splits have shown; None if it does not tell."""
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.rollouts(timeout=deadline))

    def decisions(
        self, request_id: str = "", *, timeout: float | Deadline = DEFAULT_TIMEOUT
    ) -> Recording:
        """Return what the server decided on calls with that id, or on all that it remembers.

        Raises UsageError for a server that does not tell.
        """
        deadline = as_deadline(timeout)
        return self._run(deadline, self._client.decisions(request_id, timeout=deadline))

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

    def _many(
        self,
        name: str,
        items: Iterable[Item],
        ask: Callable[[Item, Deadline], Coroutine[Any, Any, T]],
        parallel: int | None,
        timeout: float | Deadline,
    ) -> Generator[T | MlserveError]:
        from mlserve.client.many import check_many, outcomes  # one call needs neither

        check_many(name, items, parallel)
        as_deadline(timeout)
        self._client.require_open()

        def begin(item: Item) -> Future[T]:
            work = ask(item, as_deadline(timeout))
            return asyncio.run_coroutine_threadsafe(work, background_loop())

        def at_once() -> int:
            deadline = as_deadline(timeout)
            return parallel or self._run(deadline, self._client.capacity(deadline))

        return outcomes(items, begin, at_once)
