"""Takes requests in, queues them, and runs them on a fixed number of threads.

    submit -> admit -> queue -> worker thread: decode, run, encode -> answer

A slot is held until its work has really ended, also when its caller has left with
DeadlineExceeded: a runtime cannot be interrupted, and a slot given away early would be two at once.
The queue lives on the event loop's thread, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from mlserve.deadline import Deadline
from mlserve.errors import Overloaded, Unavailable
from mlserve.server.boundary import as_known_error
from mlserve.server.catalog import Catalog
from mlserve.server.loaded import LoadedVersion
from mlserve.server.versions import VersionChoice
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

DEFAULT_TIMEOUT = 30.0
"""The deadline, in seconds, of a request that comes without one."""
QUEUE_PER_THREAD = 16
"""How many requests may wait for each thread when `max_queue` is not given."""
RETRY_AFTER = 1.0
"""When a refused client may come back, in seconds."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request, as a protocol adapter hands it over. `version` None means the latest.

    `decode` reads the request into the signature it asks for and its inputs, `encode` writes the
    answer; both run on a worker's thread, next to the model.
    """

    model: str
    version: VersionChoice
    decode: Callable[[Mapping[str, Signature]], tuple[Signature, Tensors]]
    encode: Callable[[LoadedVersion, Signature, Tensors], Answer]


class _Job(Generic[Answer]):
    """A call that was admitted."""

    def __init__(self, call: Call[Answer], deadline: Deadline, loaded: LoadedVersion) -> None:
        self.call = call
        self.deadline = deadline
        self.loaded = loaded
        self.doing = "waiting in the server's queue"
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def run(self) -> Answer:
        """The answer; runs on a worker's thread."""
        self._require()
        self.doing = "reading the request"
        signature, inputs = self.call.decode(self.loaded.runner.signatures)
        self._require()
        self.doing = "running the model"
        outputs = self.loaded.runner.run(signature.name, inputs, self.deadline)
        self._require()
        return self.call.encode(self.loaded, signature, outputs)

    def _require(self) -> None:
        """Raises when nobody wants the answer any more: the deadline passed or the client left."""
        self.deadline.require(self.doing)
        if self.answer.done():
            raise Unavailable("the client has gone")


class Engine:
    """Runs at most `threads` calls at once; `max_queue` more may wait."""

    def __init__(self, repository: Catalog, *, threads: int, max_queue: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._repository = repository
        self._threads = threads
        self._max_queue = QUEUE_PER_THREAD * threads if max_queue is None else max_queue
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="mlserve-run")
        self._waiting: dict[_Job[object], None] = {}
        self._running = 0
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def unfinished(self) -> int:
        """The calls that run or wait."""
        return self._running + len(self._waiting)

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused, as the server is about to stop."""
        return self._is_draining

    def admit(self, deadline: Deadline) -> None:
        """Raises Unavailable, DeadlineExceeded or Overloaded when a call would be refused now."""
        if self._is_draining:
            raise Unavailable("the server is shutting down", hint="ask another server")
        deadline.require("the request was on its way")
        if self._running >= self._threads and len(self._waiting) >= self._max_queue:
            raise Overloaded(
                f"{self._running} requests run and {len(self._waiting)} wait: the queue is full",
                hint="send fewer requests at once, or start another server",
                retry_after=RETRY_AFTER,
            )

    async def submit(self, call: Call[Answer], deadline: Deadline) -> Answer:
        """The answer to that call.

        Raises what `admit` raises, NotFound, InvalidInput, InferenceFailed, and DeadlineExceeded as
        soon as the deadline passes, whatever the work is doing then.
        """
        self.admit(deadline)
        loaded = self._repository.lease(call.model, call.version)
        job = _Job(call, deadline, loaded)
        self._waiting[job] = None  # type: ignore[index]
        self._is_idle.clear()
        self._dispatch()
        try:
            async with asyncio.timeout_at(deadline.expires_at):
                return await job.answer
        except TimeoutError:
            raise deadline.exceeded(job.doing) from None
        finally:
            self._drop(job)

    async def drain(self, seconds: float) -> bool:
        """Refuses new calls and waits for the admitted ones; False when some did not end in time.

        Those that still wait then are refused with Unavailable.
        """
        self._is_draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._is_idle.wait()
        except TimeoutError:
            for job in list(self._waiting):
                job.answer.set_exception(Unavailable("the server is shutting down"))
                self._drop(job)
        return self._running == 0

    def _dispatch(self) -> None:
        while self._waiting and self._running < self._threads:
            job = next(iter(self._waiting))
            del self._waiting[job]
            self._start(job)

    def _start(self, job: _Job[object]) -> None:
        self._running += 1

        def ended(done: Future[object]) -> None:
            self._loop.call_soon_threadsafe(self._finish, job, done)

        self._workers.submit(job.run).add_done_callback(ended)

    def _finish(self, job: _Job[object], done: Future[object]) -> None:
        self._running -= 1
        job.loaded.release()
        error = done.exception()
        if job.answer.done():
            pass
        elif error is None:
            job.answer.set_result(done.result())
        else:
            job.answer.set_exception(as_known_error(error))
        self._dispatch()
        self._note_idle()

    def _drop(self, job: _Job[Answer]) -> None:
        """Takes a call out of the queue; one that runs keeps its slot."""
        if job in self._waiting:
            del self._waiting[job]  # type: ignore[arg-type]
            job.loaded.release()
            self._note_idle()

    def _note_idle(self) -> None:
        if not self.unfinished:
            self._is_idle.set()
