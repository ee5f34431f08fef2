"""One call on its way through the engine: its place in the queue, its work, and its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, cast

from mlserve.admission.estimates import CostKey
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Outcome
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError
from mlserve.ladder.climb import has_refused
from mlserve.load_options import LadderPolicy
from mlserve.server.engine.work import Answer, Codec, Work
from mlserve.server.errors import as_known_error
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.versions import VersionChoice
from mlserve.server.peer import Peer
from mlserve.server.request import RequestRecord
from mlserve.settings import ServerSettings

FindFault = Callable[[CostKey, Deadline], MlserveError | None]
"""Returns why a call of that kind is not worth running with that deadline; None if it is."""


@dataclass(frozen=True, slots=True)
class InferenceCall(Generic[Answer]):
    """What a protocol adapter asks of the engine. `version` None means the latest.

    `body` is the request's length in bytes. `signature` and `rows` (the first size of its inputs)
    are given if known before decoding; else they are empty and None.
    """

    model: str
    version: VersionChoice
    deadline: Deadline
    codec: Codec[Answer]
    body: int = 0
    signature: str = ""
    rows: int | None = None


class Companion(Protocol):
    """What is done with a second version of a model, on the event loop: it must not wait."""

    def choose(self, model: str, record: RequestRecord, /) -> int | None:
        """Return the version for a request that names none; None leaves it to the model."""

    def entered(self, job: Job[Any], /) -> None:
        """Take note of a call that was admitted, and perhaps have its work `keeps` set."""

    def finished(self, job: Job[Any], outcome: Outcome, /) -> None:
        """Take note of a call whose work has ended, after its caller was told."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a request tells of the call: its model, empty if unknown, and its bytes."""

    model: str = ""
    body: int = 0


UNREAD = Head()


class Job(Ticket, Generic[Answer]):
    """An admitted call. Its caller is told on the event loop's thread.

    `deadline` may be earlier than `expires_at` if the request itself brings one.
    """

    def __init__(
        self,
        call: InferenceCall[Answer],
        loaded: LoadedVersion,
        kind: CostKey,
        record: RequestRecord,
        settings: ServerSettings,
        find_fault: FindFault,
        width: int | None,
    ) -> None:
        ladder = loaded.ladder
        may_stay = ladder is not None and ladder.policy is LadderPolicy.ANSWER
        super().__init__(kind, call.deadline.expires_at, width, ladder is not None, may_stay)
        self.caller, self.priority = record.caller, record.priority
        self.is_asked, self.arrived_at = call.deadline.is_asked, record.began
        self.held = call.body
        self.signature_asked = call.signature
        self.loaded = loaded
        self.record = record
        self._waiting = _Waiting[Answer](find_fault, record.peer)
        self.work = Work(
            call.codec,
            loaded.served,
            loaded.runner,
            settings,
            kind,
            call.deadline,
            record.times,
            self._waiting,
            record.request_id,
            record.span.trace_id,
        )

    @property
    def deadline(self) -> Deadline:
        """When the answer is due."""
        return self.work.deadline

    @property
    def answer(self) -> asyncio.Future[Answer]:
        """The answer, or the error."""
        return self._waiting.answer

    def leave(self) -> None:
        """Say that the caller does not wait any more."""
        elsewhere = self.work.elsewhere
        if elsewhere is not None:
            elsewhere.leave()

    def can_join(self, other: Job[Answer]) -> bool:
        """Return whether the two may turn out to have the same form, to run as one batch.

        If the signature is unknown before decoding, that depends on what they seem to ask for.
        """
        asked = {job.signature_asked for job in (self, other)} - {""}
        signatures = self.loaded.runner.signatures
        named = [signatures[name] for name in asked if name in signatures]
        return (
            self.loaded is other.loaded
            and not self.loaded.has_dependent_rows
            and len(asked) <= 1
            and any(signature.has_rows for signature in named or signatures.values())
        )

    def outcome(self) -> Outcome:
        """Return how it ended; call this before `settle`."""
        error = self.work.error
        is_refused = has_refused(self.work.rungs)
        if (isinstance(error, DeadlineExceeded) and not is_refused) or self.deadline.is_expired:
            return Outcome.LATE
        if self.answer.done():
            return Outcome.GONE
        return Outcome.ANSWERED if error is None else Outcome.FAILED

    def settle(self, error: Exception | None) -> None:
        """Give the caller, if still waiting, the error, or without one the answer."""
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(as_known_error(error))
        else:
            self.answer.set_result(cast("Answer", self.work.result))


class _Waiting(Generic[Answer]):
    """The caller of a job, as its work sees it from a thread.

    Apart from the job, which it must not refer to: a cycle would keep the whole request in memory
    until the next garbage collection.
    """

    def __init__(self, find_fault: FindFault, peer: Peer) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        self.find_fault = find_fault

    def has_left(self) -> bool:
        # The event loop may be behind, and threads take the next call by themselves.
        return self.answer.done() or self._peer.has_hung_up()

    def enter(self, stage: int) -> None:
        """Do nothing: the work itself knows its stage."""

    def bring_forward(self, work: Work[Answer]) -> None:
        self._loop.call_soon_threadsafe(self._watch, work)

    def _watch(self, work: Work[Answer]) -> None:
        """Set the timer of a deadline; it ends with the call, as it holds the whole request."""
        alarm = self._loop.call_at(work.deadline.expires_at, self._expire, work)
        self.answer.add_done_callback(lambda _: alarm.cancel())

    def _expire(self, work: Work[Answer]) -> None:
        if not self.answer.done():
            self.answer.set_exception(work.deadline.exceeded(work.doing))
