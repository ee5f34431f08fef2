"""Which of the waiting calls run together as one batch, and when that starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlserve.admission.admission import Admission
from mlserve.backend import Batching, batching_of
from mlserve.server.engine.job import Job
from mlserve.settings import ServerSettings

_ALONE = Batching(1)


class Batches:
    """The batches of one engine, whose lock is held by whoever asks."""

    def __init__(self, admission: Admission[Job[Any]], settings: ServerSettings) -> None:
        self._admission = admission
        self._settings = settings

    def rule(self, job: Job[Any]) -> Batching:
        """Return how calls are run together: as the user says, else as the runtime likes it."""
        own = batching_of(job.loaded.runner)
        if self._settings.max_batch_size is not None:
            return Batching(self._settings.max_batch_size, own.at_once if own else None)
        return own or _ALONE

    def joining(self, first: Job[Any]) -> Iterator[Job[Any]]:
        """Yield the other waiting jobs that may run together with the first, in their order.

        The queue may be long, and a batch needs few of them: it is walked no farther than asked.
        """
        if self.rule(first).most == 1 or not first.can_join(first):
            return
        asked = first.signature_asked  # one that asks for the same can join: most do, of many
        for job in self._admission.waiting:
            is_same = job.loaded is first.loaded and job.signature_asked == asked
            if (is_same or first.can_join(job)) and job is not first:
                yield job

    def start_of(self, now: float, jobs: Sequence[Job[Any]]) -> float:
        """Return when to start them: now, or later if others may still join the batch."""
        rule = self.rule(jobs[0])
        if rule.most == 1 or not jobs[0].can_join(jobs[0]):
            return now
        half_time = min((job.work.entered_at + job.deadline.expires_at) / 2 for job in jobs)
        if rule.at_once is not None and self._running_like(jobs[0]) >= rule.at_once:
            return half_time  # the end of a batch that runs starts the next
        is_runtimes = rule.at_once is not None and self._settings.max_batch_size is None
        if is_runtimes or len(jobs) >= rule.most:
            return now
        patience = min(job.work.entered_at for job in jobs) + self._settings.max_batch_delay
        latest = self._admission.latest_start(now, jobs)
        return min(patience, half_time, latest)

    def _running_like(self, job: Job[Any]) -> int:
        """Return the number of slots in which the same version of the model runs."""
        return sum(slot.tickets[0].loaded is job.loaded for slot in self._admission.running)
