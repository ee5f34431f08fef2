"""What the calls of a slot show of the time that such calls take."""

from __future__ import annotations

from typing import Any

from mlserve.admission.estimates import CostKey, Estimates
from mlserve.admission.tickets import Slot
from mlserve.errors import DeadlineExceeded, Unavailable
from mlserve.server.engine.job import Job


def learn(estimates: Estimates, now: float, slot: Slot[Job[Any]], demand: float) -> None:
    """Learn the demand, in seconds, of each of the slot's calls, which ran together.

    From those that were ended early, learn that they take at least that.
    """
    answered: set[CostKey] = set()
    ended: set[CostKey] = set()
    has_climbed = max(job.work.has_climbed or False for job in slot.tickets)
    for work in (job.work for job in slot.tickets):
        # A call is admitted as if its images were small; a large one must not change that.
        kinds = {work.read_as} if work.kind.is_read else {work.kind, work.read_as}
        kinds |= {kind.climbing(has_climbed if work.rungs else None) for kind in kinds}
        if work.error is None or work.rungs:
            answered |= kinds
        elif isinstance(work.error, DeadlineExceeded | Unavailable) and work.times.run:
            ended |= kinds
    together, alone = len(slot.tickets), slot.was_alone
    estimates.learn_run(answered, ended, demand, now, together=together, alone=alone)
