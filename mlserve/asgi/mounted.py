"""A model server as an ASGI application, which another one mounts, starts and stops."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.routing import Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from mlserve.asgi import direct
from mlserve.asgi.direct import Target
from mlserve.client.adapter import ImageRequest
from mlserve.client.answers import Prediction
from mlserve.client.async_client import DEFAULT_TIMEOUT, check_top_k
from mlserve.client.call import Image, name_of, read_image
from mlserve.client.endpoint import PriorityName
from mlserve.client.model_calls import as_deadline
from mlserve.client.outputs import Outputs
from mlserve.client.question import Question
from mlserve.deadline import Deadline
from mlserve.errors import Unavailable, UsageError
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.asgi import send_response
from mlserve.server.listen.http import error_response
from mlserve.server.models.versions import ModelSpec
from mlserve.server.parts import ServerParts
from mlserve.settings import ServerSettings

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
_PAUSE = 10.0
"""Seconds after which a request tries once more to load models that could not be loaded."""


class MountedServer:
    """A model server without ports of its own: mount it, and say when it starts and stops.

        serving = mlserve.server.mount("inception_v3")
        app = FastAPI(lifespan=serving.lifespan)
        app.mount("/ml", serving)

    Inside a `lifespan` of your own, `async with serving:` does the same. The models are loaded when
    the block begins, and the requests in flight are finished at its end. In a server that runs no
    lifespan, the first request begins to load them, and requests get 503 until they are there.

    Each event loop and each process has models of its own: make one for each application.
    """

    def __init__(
        self, models: Sequence[ModelSpec], settings: ServerSettings, *, threads: int | None
    ) -> None:
        """Describe the server; nothing is loaded yet. Raises UsageError for a bad token file."""
        RestGate.from_settings(settings)
        self._models = tuple(models)
        self._settings = settings
        self._threads = threads
        self._run: _Run | None = None
        self._is_managed = False
        """Whether a lifespan starts and stops it, so that a request does not."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.models))})"

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(source.model for source in self._models)

    @property
    def is_ready(self) -> bool:
        """Whether a request to each model would be served now."""
        return self._run is not None and self._run.is_ready

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Serve inside the block: the `lifespan` of a FastAPI or Starlette application.

        Raises NotFound, and the error of a model when none of its versions can be loaded.
        """
        async with self:
            yield

    async def __aenter__(self) -> Self:
        if self._is_managed and self._run is not None and self._run.is_on:
            raise UsageError(
                f"{self!r} is already started", hint="start it once, in the outermost application"
            )
        self._is_managed = True
        run = self._start()
        try:
            await run.wait_ready()
        except BaseException:
            await run.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._run is not None:
            await self._run.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. As the outermost application, it runs its own lifespan."""
        if scope["type"] == "lifespan":
            await Router(lifespan=self.lifespan).lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            run = self._running()
            is_here = run.loop is asyncio.get_running_loop()
            if is_here:
                await run.app(scope, receive, send)
            else:
                await send_response(error_response(_elsewhere()), send)

    async def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        model: str | None = None,
        version: int | None = None,
        priority: PriorityName | None = None,
    ) -> Outputs:
        """Run the model on these inputs, and return its outputs by name, as arrays.

        The same as `AsyncClient.infer`, but that it never asks twice: Overloaded is raised at once,
        with the time to come back. `model` is needed if several are mounted; `version` None is the
        latest. Under overload the calls of a lower `priority` are refused first. Raises the errors
        of `mlserve.errors`: DeadlineExceeded, Overloaded, Unavailable, InferenceFailed, or
        UsageError and its kinds for an invalid call.
        """
        began, deadline = time.monotonic(), as_deadline(timeout)
        target = self._target(model, version, priority)
        question = Question(inputs, signature, outputs)

        async def ask(parts: ServerParts) -> Outputs:
            return await direct.infer(parts, target, question, deadline, began)

        return await self._ask(ask)

    async def predict(
        self,
        image: Image,
        *,
        timeout: float | Deadline = DEFAULT_TIMEOUT,  # noqa: ASYNC109  it is the user's deadline
        top_k: int | None = None,
        model: str | None = None,
        version: int | None = None,
        priority: PriorityName | None = None,
    ) -> Prediction:
        """Return the label of an image, with the `top_k` best scores if the model offers scores.

        The same as `AsyncClient.predict`, but that it never asks twice: Overloaded is raised at
        once, with the time to come back. Raises as `infer` does.
        """
        began, deadline = time.monotonic(), as_deadline(timeout)
        check_top_k(top_k)
        target = self._target(model, version, priority)
        request = ImageRequest(await _read(image, deadline), top_k)

        async def ask(parts: ServerParts) -> Prediction:
            return await direct.predict(parts, target, request, deadline, began)

        return await self._ask(ask)

    def _target(
        self, model: str | None, version: int | None, priority: PriorityName | None
    ) -> Target:
        if model is None and len(self.models) > 1:
            raise UsageError(
                f"{len(self.models)} models are mounted: {', '.join(self.models)}",
                hint="choose one with {model NAME}",
            )
        return Target(model or self.models[0], version, priority)

    async def _ask(self, ask: Callable[[ServerParts], Coroutine[Any, Any, Result]]) -> Result:
        """Return the answer, from the loop that the server runs on if it is not the caller's.

        The call is a task of its own, as it has a record of its own. Raises MlserveError.
        """
        run = self._running()
        if run.loop is asyncio.get_running_loop():
            return await asyncio.create_task(ask(run.parts))
        if not run.loop.is_running():
            raise _elsewhere()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(run.parts), run.loop))

    def _running(self) -> _Run:
        """Return the current run; without a lifespan, a request begins it."""
        run = self._run
        if run is None or (run.is_lost and not self._is_managed):
            run = self._start()
            _log.info("loading %s at the first request, as no lifespan did", ", ".join(self.models))
        return run

    def _start(self) -> _Run:
        before, self._run = self._run, _Run(self._models, self._settings, self._threads)
        if before is not None and not before.is_over:
            self._run.replace(before)
        return self._run


class _Run:
    """The server from a start to a stop, on the event loop that it was made on."""

    def __init__(
        self, models: Sequence[ModelSpec], settings: ServerSettings, threads: int | None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self.parts = ServerParts(settings, host=None, threads=threads, on_change=self._changed.set)
        self.app = self.parts.rest_app()
        self.is_over = False
        self._failed_at: float | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._serving = self.loop.create_task(self.parts.serve_models(models))
        self._serving.add_done_callback(self._note_failure)

    @property
    def is_ready(self) -> bool:
        """Whether a request to each model would be served now."""
        return self.is_on and self.parts.is_ready

    @property
    def is_on(self) -> bool:
        """Whether it has been neither stopped nor left behind by its loop."""
        return not self.is_over and not self.loop.is_closed()

    @property
    def is_lost(self) -> bool:
        """Whether to begin anew: its loop was closed, or it failed a while ago."""
        failed_at = self._failed_at
        has_failed = failed_at is not None and time.monotonic() - failed_at >= _PAUSE
        return has_failed or self.loop.is_closed()

    async def wait_ready(self) -> None:
        """Wait until every model is served. Raises the error of one that cannot be."""
        while not self.parts.is_ready:
            self._changed.clear()
            change = asyncio.create_task(self._changed.wait())
            await asyncio.wait((change, self._serving), return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            if self._serving.done():
                self._serving.result()

    def replace(self, before: _Run) -> None:
        """Free what a run holds that failed, or whose loop has ended without its stop."""
        if before.loop is self.loop:
            self._replacing = self.loop.create_task(before.stop())
        else:
            before.parts.engine.close()
            if before.parts.recorder is not None:
                before.parts.recorder.close()

    async def stop(self) -> None:
        """Finish the requests in flight, within the drain timeout, and unload the models."""
        self.is_over = True
        self._serving.cancel()
        give_up = time.monotonic() + self.parts.settings.drain_timeout
        await self.parts.drain(give_up)
        await self.parts.end_telemetry(give_up)
        self.parts.engine.close()

    def _note_failure(self, serving: asyncio.Task[None]) -> None:
        if serving.cancelled() or (error := serving.exception()) is None:
            return
        self._failed_at = time.monotonic()
        hint = getattr(error, "hint", None)
        _log.error("the models are not served: %s", f"{error}; hint: {hint}" if hint else error)


async def _read(image: Image, deadline: Deadline) -> bytes:
    doing = f"reading {name_of(image)}"
    try:
        async with asyncio.timeout(deadline.require(doing)):
            return await read_image(image)
    except TimeoutError:
        raise deadline.exceeded(doing) from None


def _elsewhere() -> Unavailable:
    return Unavailable(
        "the mounted model server runs on another event loop, or has ended with it",
        hint="start it in the lifespan of the application that asks it",
    )
