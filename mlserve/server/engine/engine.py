"""Admit calls, queue them, and have a fixed number of workers run them.

    admit -> serve -> queue -> worker: decode, run, encode -> answer

`admit` checks a request's head, `serve` takes the call itself. `admission` decides which calls get
in and which runs next; `work` is what a worker does with them. A worker is a thread, or one of the
processes that a version has for itself (`server.processes`).

A slot is held until its work has really ended, even if the caller has left with DeadlineExceeded: a
runtime cannot be interrupted, and a slot freed early would run two calls at once.

All of this is on the event loop's thread, but for one thing: a thread that has finished takes the
next call itself (`_follow`), as the event loop may be busy just then, or have to be woken. So
admission is locked. What the event loop has to decide for others, or for later, is left to it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from itertools import islice
from threading import RLock
from typing import Any

from mlserve.admission.admission import Admission
from mlserve.admission.decisions import Copy, Decisions
from mlserve.admission.estimates import CostKey
from mlserve.admission.patience import Patience, SeenKind
from mlserve.admission.retry_after import UNKNOWN
from mlserve.admission.tickets import Slot, Ticket
from mlserve.admission.verdicts import Refusal, Verdict
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Unavailable
from mlserve.server import request
from mlserve.server.engine.batches import Batches
from mlserve.server.engine.deadlines import Deadlines
from mlserve.server.engine.job import UNREAD, Companion, Head, InferenceCall, Job
from mlserve.server.engine.learning import learn
from mlserve.server.engine.overhead import Overhead
from mlserve.server.engine.refusals import Refusals
from mlserve.server.engine.stalls import Stalls
from mlserve.server.engine.threads import Task, WorkerThreads
from mlserve.server.engine.work import Answer
from mlserve.server.errors import as_exception
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.models import Models
from mlserve.server.models.versions import VersionChoice
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import ServerSettings


class Engine:
    """Runs at most `threads` calls, or batches of calls, at once; others wait, or are refused."""

    def __init__(
        self, models: Models, telemetry: Telemetry, *, threads: int, settings: ServerSettings
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._models = models
        self._telemetry = telemetry
        self.settings = settings
        self.companion: Companion | None = None
        """Whoever has something to do with a second version of a model."""
        self._admission: Admission[Job[Any]] = Admission(
            threads,
            math.inf if settings.max_queue is None else settings.max_queue,
            settings.queue_bytes,
            token_shares=settings.shares,
        )
        self._batches = Batches(self._admission, settings)
        self._decisions = Decisions()
        self._lock = RLock()
        """Held by whoever uses admission; never while waiting for anything."""
        self._refusals = Refusals(self._admission, self._decisions, self._lock, telemetry)
        self._threads = WorkerThreads(threads)
        self._unsettled = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(self._expire)
        self._stalls = Stalls()
        self._overhead = Overhead(self._note_overhead)
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def default_timeout(self) -> float:
        """The deadline, in seconds, of a request that brings none."""
        return self.settings.default_timeout

    @property
    def running(self) -> int:
        """The number of calls that hold a slot."""
        return self._admission.started

    @property
    def waiting(self) -> int:
        """The number of calls in the queue."""
        return len(self._admission.waiting)

    @property
    def max_queue(self) -> int | None:
        """The most calls that may wait; None if only time and memory bound the queue."""
        return self.settings.max_queue

    @property
    def queue_bytes(self) -> int:
        """The bytes that the calls in the queue hold."""
        return self._admission.waiting.held

    @property
    def slots(self) -> int:
        """How many calls, or batches of calls, run at once."""
        return self._admission.slots

    @property
    def slots_in_use(self) -> int:
        """How many calls, or batches of calls, run now."""
        return len(self._admission.running)

    @property
    def predicted_wait(self) -> float:
        """The seconds that a call which comes now would wait for a slot, by the estimates."""
        with self._lock:
            return self._admission.predicted_wait(time.monotonic())

    @property
    def patience(self) -> Patience:
        """How long callers wait that set no deadline."""
        return self._admission.patience

    @property
    def seen_callers(self) -> list[SeenKind]:
        """The kinds of caller seen lately, and how long they wait."""
        with self._lock:
            return self.patience.seen(time.monotonic())

    @property
    def unfinished(self) -> int:
        """The number of calls that run or wait, or whose callers have still to be told."""
        with self._lock:
            return self.running + self.waiting + self._unsettled

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused because the server is about to stop."""
        return self._is_draining

    def admit(self, deadline: Deadline, head: Head = UNREAD) -> None:
        """Raise Unavailable, DeadlineExceeded or Overloaded if the call would surely be refused.

        A port calls this once, as soon as it has the head of a request: a call that would be
        refused anyway should not take memory for its body. `serve` checks again, for the call
        itself.
        """
        # Draining is checked here only. A port calls this at the moment when it counts the request
        # as in flight, and a request in flight is served to its end.
        if self._is_draining:
            self._refusals.turn_away(Verdict(Refusal.DRAINING, 0.0), deadline)
            raise Unavailable("the server is shutting down", hint="ask another server")
        self._require_time(deadline)
        admission = self._admission
        with self._lock:
            ticket = self._ticket_of(deadline, head)
            now = time.monotonic()
            if ticket is None:
                verdict = admission.check_unread(now, request.current().priority)
            else:
                verdict = admission.check_head(now, ticket)
        if verdict is not None:
            self._refusals.turn_away(verdict, deadline, ticket)
            raise self._refusals.error_of(verdict, deadline, ticket)

    def serve(self, call: InferenceCall[Answer]) -> Coroutine[Any, Any, Answer]:
        """Take the call in, and return the coroutine that gives its answer.

        Raises NotFound, InvalidInput and Unavailable if the model is not served, and
        DeadlineExceeded and Overloaded for a call that cannot be answered in time.
        """
        self._require_time(call.deadline)
        # No `with` for this lease: it ends with the work, in `_finish` or `_take_out`, and not with
        # the caller's wait. A call whose deadline has passed may still be running.
        loaded = self._models.lease(call.model, self.version_for(call.model, call.version))
        try:
            job = self._enter(call, loaded)
        except BaseException:
            loaded.release()
            raise
        self._dispatch()
        return self._answer(job)

    def version_for(self, model: str, version: VersionChoice) -> VersionChoice:
        """Return the version that was asked for, or that a split chooses if none was."""
        if version is None and self.companion is not None:
            return self.companion.choose(model, request.current())
        return version

    async def _answer(self, job: Job[Answer]) -> Answer:
        """Wait for the answer to an admitted call; it leaves the queue if the caller stops waiting.

        Raises InvalidInput, InferenceFailed, and DeadlineExceeded as soon as the deadline passes,
        whatever the work is doing then.
        """
        self._deadlines.watch(job)
        try:
            answer = await job.answer
        except asyncio.CancelledError:
            self._note_patience(job, has_left=True)
            raise
        else:
            self._note_patience(job, has_left=False)
            return answer
        finally:
            job.leave()
            self._deadlines.forget(job)
            self._drop(job, Refusal.GONE)

    def _note_patience(self, job: Job[Any], *, has_left: bool) -> None:
        """Learn how long a caller waits that set no deadline."""
        if job.deadline.is_asked or self._is_draining:
            return
        if has_left and self._stalls.since(job.arrived_at):
            return  # nobody knows when it came
        now = time.monotonic()
        note = self.patience.note_left if has_left else self.patience.note_stayed
        with self._lock:
            note(job.caller, now - job.arrived_at, now)

    def _expire(self, job: Job[Any]) -> None:
        self._note_patience(job, has_left=False)
        self._drop(job, Refusal.EXPIRED)
        job.settle(job.deadline.exceeded(job.work.doing))

    def decisions(self) -> Copy:
        """Return a copy of the last decisions."""
        with self._lock:
            return self._decisions.copy(time.monotonic(), time.time(), self._admission)

    def refuse_new(self) -> None:
        """Refuse new calls from now on; batches stop waiting for more."""
        self._is_draining = True
        self._dispatch()

    async def drain(self, seconds: float) -> bool:
        """Refuse new calls and wait for the admitted ones; return False if time ran out.

        Calls that are still queued then are refused with Unavailable.
        """
        self.refuse_new()
        try:
            async with asyncio.timeout(seconds):
                await self._is_idle.wait()
        except TimeoutError:
            with self._lock:
                waiting = list(self._admission.waiting)
            for job in waiting:
                if self._take_out(job, Refusal.DRAINING):
                    job.settle(Unavailable("the server is shutting down"))
        return not self.unfinished

    def close(self) -> None:
        """Let the threads end, each after the call that it runs; no call can be served any more."""
        self._threads.close()
        self._stalls.close()
        self._overhead.close()

    def _enter(self, call: InferenceCall[Answer], loaded: LoadedVersion) -> Job[Answer]:
        """Queue the call as a job. Raises Overloaded and DeadlineExceeded."""
        served = loaded.model, loaded.version
        is_known = call.signature in loaded.runner.signatures
        if is_known and call.rows is not None and call.rows >= 0:
            kind = CostKey.from_rows(*served, call.signature, call.rows)
        else:
            kind = CostKey.from_length(*served, call.signature if is_known else "", call.body)
        record = request.current()
        record.model, record.version = served
        record.served_by = loaded.standing.served_by
        width = self._width_of(loaded)
        job = Job(call, loaded, kind, record, self.settings, self._find_fault, width)
        admission = self._admission
        with self._lock:
            now = time.monotonic()
            verdict = admission.check(now, job)
            self._decisions.arrived(now, record.request_id, job, admission, verdict)
            if verdict is None:
                admission.widen(self._batches.rule(job).most)
                admission.enter(job)
            shed, admission.shed = admission.shed, []
            for other in shed:
                self._decisions.taken_out(now, other, Refusal.SHED)
        for other in shed:
            self._end_unstarted(other, Refusal.SHED)
            shed_by = Verdict(Refusal.SHED, UNKNOWN)
            other.settle(self._refusals.error_of(shed_by, other.deadline, other))
        if verdict is not None:
            self._refusals.count(verdict.why, record)
            raise self._refusals.error_of(verdict, call.deadline, job)
        self._is_idle.clear()
        if self.companion is not None:
            self.companion.entered(job)
        return job

    def _dispatch(self) -> None:
        """Start what can be started, the earliest deadline first.

        A call that waits for others to join its batch does not block the next in line.
        """
        with self._lock:
            self._start_all()

    def _start_all(self) -> None:
        """Do what `_dispatch` says; the lock is held."""
        held: set[Job[Any]] = set()
        due_next = math.inf
        while self._admission.has_slot():
            now = time.monotonic()
            job = self._admission.next(now, held)
            if job is None:
                break
            verdict = self._admission.judge(now, job)
            if verdict is not None:
                self._take_out(job, verdict.why)
                job.settle(self._refusals.error_of(verdict, job.deadline))
                continue
            others = self._batches.joining(job)
            jobs = [job, *islice(others, self._batches.rule(job).most - 1)]
            due = now if self._is_draining else self._batches.start_of(now, jobs)
            if due > now:
                due_next = min(due, due_next)
                held.update(jobs, others)  # those beyond one batch, too: this loop has to end
            else:
                self._start(now, jobs)
        if held:
            self._wake_at(due_next)

    def _wake_at(self, due: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due, self._dispatch)

    def _start(self, now: float, jobs: Sequence[Job[Any]]) -> None:
        task, processes = self._task(now, jobs), jobs[0].loaded.processes
        if processes is None:
            self._threads.submit(task)
        else:
            processes.submit(task.works, task.done)

    def _task(self, now: float, jobs: Sequence[Job[Any]]) -> Task:
        """Move the jobs into a slot; return what is to be done there."""
        slot = self._admission.start(now, jobs)
        self._decisions.started(now, slot)
        for job in jobs:
            job.work.threads = slot.threads
            job.work.only_rung = None if job.may_climb else 0
        works = [job.work for job in jobs]
        return Task(works, partial(self._follow, slot), partial(self._finish, slot))

    def _follow(self, slot: Slot[Job[Any]], ended: Sequence[int] | BaseException) -> Task | None:
        """Free the slot, and take the call at the head of the queue for the thread that had it.

        Called on that thread. None if nothing waits, or if the event loop has to see to it: that
        the call is refused, joins a batch, or runs in another process.
        """
        with self._lock:
            now = time.monotonic()
            self._end(now, slot, ended)
            job = self._admission.next(now) if self._admission.has_slot() else None
            if job is None or job.loaded.processes is not None or self._batches.rule(job).most > 1:
                return None
            is_refused = self._admission.judge(now, job) is not None
            return None if is_refused else self._task(now, [job])

    def _end(self, now: float, slot: Slot[Job[Any]], ended: Sequence[int] | BaseException) -> None:
        """Free the slot, and learn from its calls."""
        demand = self._admission.end(now, slot)
        self._decisions.ended(now, slot, demand)
        self._unsettled += len(slot.tickets)
        if isinstance(ended, BaseException):
            for job in slot.tickets:
                job.work.error = as_exception(ended)
        learn(self._admission.estimates, now, slot, demand)

    def _finish(self, slot: Slot[Job[Any]], ended: Sequence[int] | BaseException) -> None:
        """Tell the callers of a slot, and start what has a place now."""
        jobs = slot.tickets
        with self._lock:
            if not slot.has_ended:
                self._end(time.monotonic(), slot, ended)
            self._unsettled -= len(jobs)
        sizes = () if isinstance(ended, BaseException) else ended
        for size in () if self._batches.rule(jobs[0]).most == 1 else sizes:
            self._telemetry.metrics.batch(size)
        for execution in dict.fromkeys(job.work.execution for job in jobs):  # a batch shares one
            if execution is not None:
                self._telemetry.statistics.execution(execution)
        for job in jobs:
            job.loaded.release()
            signature = job.work.signature
            job.record.signature = "" if signature is None else signature.name
            job.record.rungs = job.work.rungs
            outcome = job.outcome()
            self._decisions.settled(job, outcome)
            self._telemetry.metrics.work(job.record, outcome)
            request.begin(job.record)  # errors logged from here belong to this request
            job.settle(job.work.error)
            if self.companion is not None:
                self.companion.finished(job, outcome)
        self._dispatch()
        self._note_idle()

    def _find_fault(self, kind: CostKey, deadline: Deadline) -> MlserveError | None:
        """Return why a call of that kind is not worth running; called on a worker's thread."""
        verdict = self._admission.check_kind(time.monotonic(), kind, deadline.expires_at)
        return None if verdict is None else self._refusals.error_of(verdict, deadline)

    def _require_time(self, deadline: Deadline) -> None:
        if deadline.is_expired:
            self._refusals.turn_away(Verdict(Refusal.EXPIRED, 0.0), deadline)
            raise deadline.exceeded("the request was still arriving")

    def _width_of(self, loaded: LoadedVersion) -> int | None:
        """Return the width of a version; None if it may use all slots."""
        return None if loaded.width is None or loaded.width >= self.slots else loaded.width

    def _ticket_of(self, deadline: Deadline, head: Head) -> Ticket | None:
        """Return the call as its head shows it, of the shortest kind measured; None without one."""
        names = self._models.names
        model = head.model or (names[0] if len(names) == 1 else "")
        is_served = model in names
        kind = self._admission.estimates.least_of(model, time.monotonic()) if is_served else None
        if kind is None:
            return None
        record = request.current()
        return Ticket(
            kind,
            deadline.expires_at,
            self._admission.width_of(model),
            caller=record.caller,
            priority=record.priority,
            is_asked=deadline.is_asked,
            arrived_at=record.began,
            held=head.body,
        )

    def _drop(self, job: Job[Any], why: Refusal) -> None:
        """Remove a call from the queue; a running one keeps its slot.

        Those behind it may start now, as a batch may have waited for it.
        """
        if self._take_out(job, why):
            self._dispatch()

    def _take_out(self, job: Job[Any], why: Refusal) -> bool:
        with self._lock:
            if not self._admission.leave(job):
                if job.answer.cancelled():
                    self._decisions.left(time.monotonic(), job)
                return False
            self._decisions.taken_out(time.monotonic(), job, why)
        self._end_unstarted(job, why)
        return True

    def _end_unstarted(self, job: Job[Any], why: Refusal) -> None:
        """Count a job that has been taken out of the queue."""
        self._refusals.count(why, job.record)
        job.loaded.release()
        self._note_idle()

    def _note_overhead(self, part: float) -> None:
        with self._lock:
            self._admission.overhead = part

    def _note_idle(self) -> None:
        if not self.unfinished:
            self._is_idle.set()
