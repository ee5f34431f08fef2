"""Takes requests in, queues them, and runs them on a fixed number of threads.

    submit -> admit -> queue -> worker thread: decode, run, encode -> answer

`admission` decides who is let in and who runs next, `batching` is what a worker does with them.
A slot is held until its work has really ended, also when its caller has left with
DeadlineExceeded: a runtime cannot be interrupted, and a slot given away early would be two at once.
The queue lives on the event loop's thread, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError, Unavailable
from mlserve.server import request
from mlserve.server.engine.admission import (
    UNOBSERVED,
    Admission,
    Ended,
    Observer,
    Refusal,
    Slot,
    Ticket,
    Verdict,
)
from mlserve.server.engine.batching import can_join, executions, run_jobs
from mlserve.server.engine.estimates import CostKey
from mlserve.server.engine.job import Answer, InferenceCall, Job, as_error
from mlserve.server.errors import as_exception
from mlserve.server.listen.drain import is_kept
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.models import Models
from mlserve.server.request import RequestRecord
from mlserve.settings import ServerSettings

QUEUE_PER_THREAD = 16
"""How many requests may wait for each thread when `max_queue` is not given."""


class Engine:
    """Runs at most `threads` calls, or batches of calls, at once; `max_queue` more may wait."""

    def __init__(
        self,
        repository: Models,
        *,
        threads: int,
        settings: ServerSettings,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._repository = repository
        self.settings = settings
        self._observer = observer
        asked = settings.max_queue
        self._max_queue = QUEUE_PER_THREAD * threads if asked is None else asked
        self._max_batch = settings.max_batch_size
        self._admission = Admission(threads, self._max_queue, self._max_batch)
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="mlserve-run")
        self._jobs: dict[Ticket, Job[Any]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def default_timeout(self) -> float:
        """The deadline, in seconds, of a request that comes without one."""
        return self.settings.default_timeout

    @property
    def running(self) -> int:
        """The calls that hold a slot now."""
        return sum(len(run.works) for run in self._admission.running)

    @property
    def waiting(self) -> int:
        """The calls in the queue now."""
        return len(self._admission.waiting)

    @property
    def max_queue(self) -> int:
        """The most calls that may wait."""
        return self._max_queue

    @property
    def unfinished(self) -> int:
        """The calls that run or wait."""
        return self.running + self.waiting

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused, as the server is about to stop."""
        return self._is_draining

    def admit(self, deadline: Deadline) -> None:
        """Raises Unavailable, DeadlineExceeded or Overloaded when any call would be refused now.

        For use before a request's body is read; `submit` looks at what the call takes.
        """
        if self._is_draining and not is_kept():
            self._note_refused(Refusal.DRAINING, request.current())
            raise Unavailable("the server is shutting down", hint="ask another server")
        if deadline.is_expired:
            self._note_refused(Refusal.EXPIRED, request.current())
            raise deadline.exceeded("the request was on its way")
        full = self._admission.check_room(time.monotonic())
        if full is not None:
            raise self._refusal(full, deadline)

    async def submit(self, call: InferenceCall[Answer], deadline: Deadline) -> Answer:
        """The answer to that call.

        Raises what `admit` raises, also for a call that cannot be answered in time, NotFound,
        InvalidInput, InferenceFailed, and DeadlineExceeded as soon as the deadline passes, whatever
        the work is doing then.
        """
        return await self.answer(self.enter(call, deadline))

    def enter(self, call: InferenceCall[Answer], deadline: Deadline) -> Job[Answer]:
        """The call as a job in the queue, or on its way to a worker: `answer` is to be awaited.

        Raises what `submit` raises of a call that is not let in.
        """
        self.admit(deadline)
        job = self._enter(call, deadline, self._repository.lease(call.model, call.version))
        self._dispatch()
        return job

    async def answer(self, job: Job[Answer]) -> Answer:
        """The answer to a call that was let in. Raises what `submit` raises of such a call.

        A job whose caller stops to wait leaves the queue.
        """
        deadline = job.deadline
        try:
            async with asyncio.timeout_at(deadline.expires_at):
                return await job.answer
        except TimeoutError:
            self._drop(job, Refusal.EXPIRED)
            raise deadline.exceeded(job.doing) from None
        finally:
            self._drop(job, Refusal.GONE)

    def refuse_new(self) -> None:
        """Refuses new calls from now on; batches wait for no more."""
        self._is_draining = True
        self._dispatch()

    async def drain(self, seconds: float) -> bool:
        """Refuses new calls and waits for the admitted ones; False when some did not end in time.

        Those that still wait then are refused with Unavailable.
        """
        self.refuse_new()
        try:
            async with asyncio.timeout(seconds):
                await self._is_idle.wait()
        except TimeoutError:
            for work in list(self._admission.waiting):
                job = self._jobs[work]
                self._drop(job, Refusal.DRAINING)
                job.settle(Unavailable("the server is shutting down"))
        return not self._admission.running

    def _enter(
        self, call: InferenceCall[Answer], deadline: Deadline, loaded: LoadedVersion
    ) -> Job[Answer]:
        """The call as a job in the queue. Raises Overloaded, DeadlineExceeded."""
        served = loaded.model, loaded.version
        if call.signature and call.rows is not None:
            kind = CostKey.known(*served, call.signature, call.rows)
        else:
            is_known = call.signature in loaded.runner.signatures
            kind = CostKey.unread(*served, call.signature if is_known else "", call.body)
        work = Ticket(kind, deadline.expires_at)
        verdict = self._admission.check(time.monotonic(), work)
        if verdict is not None:
            loaded.release()
            raise self._refusal(verdict, deadline)
        current = request.current()
        current.model, current.version = call.model, loaded.version
        job = Job(call, deadline, loaded, work, current, self._find_fault)
        self._jobs[work] = job
        self._admission.enter(work)
        self._is_idle.clear()
        return job

    def _dispatch(self) -> None:
        """Starts what can be started, the earliest deadline first.

        What waits for others to join its batch holds up nobody else: the next in line is tried.
        """
        held: set[Ticket] = set()
        due_next = math.inf
        while self._admission.has_slot() and (job := self._first_but(held)) is not None:
            now = time.monotonic()
            verdict = self._admission.judge(now, job.work)
            if verdict is not None:
                self._take_out(job, verdict.why)
                job.settle(self._error(verdict, job.deadline))
                continue
            jobs = self._together_with(job)
            due = self._start_of(now, jobs)
            if due > now:
                due_next = min(due, due_next)
                held |= {job.work for job in jobs}
            else:
                self._start(now, jobs)
        if held:
            self._wake_at(due_next)

    def _first_but(self, held: Collection[Ticket]) -> Job[Any] | None:
        """The first job in line that is not held back."""
        return next((self._jobs[w] for w in self._admission.waiting if w not in held), None)

    def _together_with(self, first: Job[Any]) -> list[Job[Any]]:
        """The first job and those behind it that may run with it, as many as make a batch."""
        if self._max_batch == 1 or not can_join(first, first):
            return [first]
        waiting = (self._jobs[work] for work in self._admission.waiting)
        return [job for job in waiting if can_join(first, job)][: self._max_batch]

    def _start_of(self, now: float, jobs: Sequence[Job[Any]]) -> float:
        """When to start them: at once, or later where others may still join the batch."""
        is_alone = self._max_batch == 1 or not can_join(jobs[0], jobs[0])
        if is_alone or len(jobs) >= self._max_batch or self._is_draining:
            return now
        patience = min(job.entered_at for job in jobs) + self.settings.max_batch_delay
        half_time = min((job.entered_at + job.deadline.expires_at) / 2 for job in jobs)
        latest = self._admission.latest_start(now, [job.work for job in jobs])
        return min(patience, half_time, latest)

    def _wake_at(self, due: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due, self._dispatch)

    def _start(self, now: float, jobs: Sequence[Job[Any]]) -> None:
        run = self._admission.start(now, [job.work for job in jobs])

        def ended(done: Future[list[int]]) -> None:
            self._loop.call_soon_threadsafe(self._finish, run, jobs, done)

        self._workers.submit(run_jobs, jobs).add_done_callback(ended)

    def _finish(self, run: Slot, jobs: Sequence[Job[Any]], done: Future[list[int]]) -> None:
        now = time.monotonic()
        demand = self._admission.end(now, run)
        failure = done.exception()  # of the batching itself: a job's own is its `error`
        for size in () if failure or self._max_batch == 1 else done.result():
            self._observer.batch(size)
        for ran in executions(jobs):
            self._observer.executed(ran)
        for job in jobs:
            job.error = job.error if failure is None else as_exception(failure)
            del self._jobs[job.work]
            job.loaded.release()
            self._learn(now, job, demand)
            self._tell(job)
            request.begin(job.record)  # what is logged of an error is about this request
            job.settle(job.error)
        self._dispatch()
        self._note_idle()

    def _learn(self, now: float, job: Job[Any], demand: float) -> None:
        """Takes in what the call took, of one that was ended early at least so much."""
        estimates = self._admission.estimates
        # What was known of a large image before it was read is what is known of a small one.
        for kind in {job.kind} if job.work.kind.is_read else {job.work.kind, job.kind}:
            if job.error is None:
                estimates.learn(kind, demand, now)
            elif isinstance(job.error, DeadlineExceeded | Unavailable) and job.times.run:
                estimates.learn_at_least(kind, demand, now)

    def _tell(self, job: Job[Any]) -> None:
        name = "" if job.signature is None else job.signature.name
        job.record.signature = name
        call = Ended(job.call.model, job.loaded.version, name, job.outcome(), job.times)
        self._observer.ended(call)

    def _find_fault(self, kind: CostKey, deadline: Deadline) -> MlserveError | None:
        """Why a call that turned out to be of that kind is not worth running; on a worker."""
        verdict = self._admission.check_kind(time.monotonic(), kind, deadline.expires_at)
        return None if verdict is None else self._error(verdict, deadline)

    def _refusal(self, verdict: Verdict, deadline: Deadline) -> MlserveError:
        self._note_refused(verdict.why, request.current())
        return self._error(verdict, deadline)

    def _note_refused(self, why: Refusal, refused: RequestRecord) -> None:
        refused.refused = why.value
        self._observer.refused(why)

    def _error(self, verdict: Verdict, deadline: Deadline) -> MlserveError:
        return as_error(verdict, deadline, running=self.running, waiting=self.waiting)

    def _drop(self, job: Job[Any], why: Refusal) -> None:
        """Takes a call out of the queue; one that runs keeps its slot.

        Those behind it may start now: it may have been what a batch waited for.
        """
        if self._take_out(job, why):
            self._dispatch()

    def _take_out(self, job: Job[Any], why: Refusal) -> bool:
        if not self._admission.leave(job.work):
            return False
        self._note_refused(why, job.record)
        del self._jobs[job.work]
        job.loaded.release()
        self._note_idle()
        return True

    def _note_idle(self) -> None:
        if not self._jobs:
            self._is_idle.set()
