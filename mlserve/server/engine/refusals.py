"""What becomes of a call that is not served: it is counted, kept, and its caller gets an error."""

from __future__ import annotations

import time
from threading import RLock
from typing import Any

from mlserve.admission.admission import Admission
from mlserve.admission.decisions import Decisions
from mlserve.admission.estimates import CostKey
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Refusal, Verdict, error_of
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Overloaded
from mlserve.server import request
from mlserve.server.engine.job import Job
from mlserve.server.request import RequestRecord
from mlserve.server.telemetry.telemetry import Telemetry


class Refusals:
    """Tells of refused calls: the metrics, the request's record, the decisions, the caller."""

    def __init__(
        self,
        admission: Admission[Job[Any]],
        decisions: Decisions,
        lock: RLock,
        telemetry: Telemetry,
    ) -> None:
        self._admission = admission
        self._decisions = decisions
        self._lock = lock
        self._telemetry = telemetry

    def count(self, why: Refusal, record: RequestRecord) -> None:
        """Count a refusal in the metrics, and note it in the request's record."""
        record.refused = why.value
        self._telemetry.metrics.refused(why)

    def turn_away(self, verdict: Verdict, deadline: Deadline, ticket: Ticket | None = None) -> None:
        """Count and keep the refusal of a call of which only the head has been read, if even that.

        `ticket` is the call as its head shows it; None if that has not been read.
        """
        record = request.current()
        if ticket is None:
            ticket = Ticket(CostKey.from_head(""), deadline.expires_at, caller=record.caller)
            ticket.priority, ticket.is_asked = record.priority, deadline.is_asked
            ticket.arrived_at = record.began
        # Its version and signature are those of the shortest calls, and may not be its own.
        kind = CostKey.from_head(ticket.kind.model)
        now, decided = time.monotonic(), self._decisions
        with self._lock:
            decided.arrived(now, record.request_id, ticket, self._admission, verdict, kind)
        self.count(verdict.why, record)

    def error_of(
        self, verdict: Verdict, deadline: Deadline, ticket: Ticket | None = None
    ) -> MlserveError:
        """Return the error for the caller, with the price of such calls if they are overload."""
        admission = self._admission
        error = error_of(verdict, deadline, admission.started, len(admission.waiting))
        # A short queue may be full and the server idle the next moment: that has no price.
        if ticket is not None and isinstance(error, Overloaded) and verdict.is_for_time:
            error.price = admission.price(time.monotonic(), ticket)
        return error
