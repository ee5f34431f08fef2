"""One call on its way through the engine: the request, its stages, and the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from mlserve.backend import judges_shapes
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError, Unavailable
from mlserve.server.codec.images import work_of
from mlserve.server.engine.admission import IN_QUEUE, Ticket
from mlserve.server.engine.estimates import CostKey
from mlserve.server.errors import as_exception, as_known_error
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.versions import VersionChoice
from mlserve.server.request import Outcome, RequestRecord
from mlserve.server.telemetry.statistics import Execution
from mlserve.server.tensors import check_shapes
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors


Answer = TypeVar("Answer")
FindFault = Callable[[CostKey, Deadline], MlserveError | None]
"""Returns why a call of that kind is not worth running with that deadline; None if it is."""


@dataclass(frozen=True, slots=True)
class InferenceCall(Generic[Answer]):
    """What a protocol adapter asks of the engine. `version` None means the latest.

    `decode` reads the request into its signature and inputs, `encode` writes the answer; both run
    on a worker's thread, like the model. `body` is the request's length in bytes. `signature` and
    `rows` (the first size of its inputs) are given if known before decoding; else they are empty
    and None. `sooner` returns the deadline once `decode` has run, as the request itself may hold an
    earlier one.
    """

    model: str
    version: VersionChoice
    deadline: Deadline
    decode: Callable[[Mapping[str, Signature]], tuple[Signature, Tensors]]
    encode: Callable[[LoadedVersion, Signature, Tensors], Answer]
    body: int = 0
    signature: str = ""
    rows: int | None = None
    sooner: Callable[[Deadline], Deadline] | None = None


class Job(Ticket, Generic[Answer]):
    """An admitted call and its place in the queue.

    Its stages run on a worker's thread and never raise. `kind` is what it was admitted as,
    `read_as` what it turned out to be. The queue is ordered by `expires_at`; `deadline` may be
    earlier if the request itself brings one.
    """

    def __init__(
        self,
        call: InferenceCall[Answer],
        loaded: LoadedVersion,
        kind: CostKey,
        record: RequestRecord,
        find_fault: FindFault,
    ) -> None:
        super().__init__(kind, call.deadline.expires_at, loaded.width)
        self.call = call
        self.deadline = call.deadline
        self.loaded = loaded
        self.record = record
        self.times = record.times
        self.find_fault = find_fault
        self.entered_at = time.monotonic()
        self.doing = IN_QUEUE
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        self.read_as = kind
        self.signature: Signature | None = None
        self.inputs: Tensors = {}
        self.outputs: Tensors = {}
        self.execution: Execution | None = None
        """The run that gave the outputs, possibly shared with other calls."""
        self.result: Answer | None = None
        self.error: Exception | None = None

    def decode(self) -> None:
        """Read the request."""
        self.times.queue = time.monotonic() - self.entered_at

        def read() -> None:
            loaded = self.loaded
            self.signature, self.inputs = self.call.decode(loaded.runner.signatures)
            if not judges_shapes(loaded.runner):
                check_shapes(self.signature, self.inputs)
            name, work = self.signature.name, work_of(self.inputs)
            self.read_as = CostKey.from_rows(loaded.model, loaded.version, name, self.rows, work)
            if self.call.sooner is not None:
                self._bring_forward(self.call.sooner(self.deadline))

        self.attempt("decode", "reading the request", read)

    def run(self) -> None:
        """Run the model for this call alone."""

        def run() -> None:
            assert self.signature is not None
            loaded = self.loaded
            self.outputs = loaded.runner.run(self.signature.name, self.inputs, self.deadline)
            self.execution = Execution(loaded.model, loaded.version, self.rows, (self.times,))

        self.attempt("run", "running the model", run)

    def encode(self) -> None:
        """Write the answer."""

        def write() -> None:
            assert self.signature is not None
            self.result = self.call.encode(self.loaded, self.signature, self.outputs)

        self.attempt("encode", "writing the answer", write)
        self.inputs = self.outputs = {}

    def attempt(self, stage: str, doing: str, work: Callable[[], None]) -> None:
        """Do that work, timed as that stage, unless the call has failed or is no longer wanted.

        Whatever it raises becomes the call's error.
        """
        if self.error is not None:
            return
        started = time.monotonic()
        try:
            self.require()
            self.doing = doing
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the call is awaited
            # BaseException, as a panic in a runtime written in Rust is not an Exception. The slot,
            # the lease and the caller must be released all the same.
            self.error = as_exception(error)
        finally:
            spent = getattr(self.times, stage) + time.monotonic() - started
            setattr(self.times, stage, spent)

    def require_time(self) -> None:
        """Fail the call if the time left is too short for what the request turned out to be."""
        if self.error is None:
            self.error = self.find_fault(self.read_as, self.deadline)

    def is_wanted(self) -> bool:
        """Return whether to run it: it has not failed, and its caller still waits."""
        if self.error is None:
            try:
                self.require()
            except MlserveError as error:
                self.error = error
        return self.error is None

    def require(self) -> None:
        """Raise if the answer is no longer wanted: the deadline passed or the client left."""
        self.deadline.require(self.doing)
        if self.answer.done():
            raise Unavailable("the client disconnected")

    def outcome(self) -> Outcome:
        """Return how it ended; call this before `settle`."""
        if isinstance(self.error, DeadlineExceeded) or self.deadline.is_expired:
            return Outcome.LATE
        if self.answer.done():
            return Outcome.GONE
        return Outcome.ANSWERED if self.error is None else Outcome.FAILED

    def settle(self, error: Exception | None) -> None:
        """Give the caller, if still waiting, the error, or without one the answer."""
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(as_known_error(error))
        else:
            self.answer.set_result(cast("Answer", self.result))

    def _bring_forward(self, deadline: Deadline) -> None:
        """Fail at that deadline, if it is sooner, whatever the call is doing then."""
        if deadline.expires_at < self.deadline.expires_at:
            self.deadline = deadline
            self._loop.call_soon_threadsafe(self._expire_at, deadline.expires_at)

    def _expire_at(self, time_: float) -> None:
        """Set the timer of a deadline; it ends with the call, as it holds the whole request."""
        alarm = self._loop.call_at(time_, self._expire)
        self.answer.add_done_callback(lambda _: alarm.cancel())

    def _expire(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(self.deadline.exceeded(self.doing))

    @property
    def rows(self) -> int:
        """The first size of its inputs; 1 if they have none."""
        return max((a.shape[0] for a in self.inputs.values() if a.ndim), default=1)
