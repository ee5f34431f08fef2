"""The last decisions of a server, to be explained (`mlserve why`) and replayed (`mlserve audit`).

No payload is kept, and no secret: ids, times, kinds of call, estimates and verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlserve.admission.admission import Admission
from mlserve.admission.tickets import Slot, Ticket
from mlserve.admission.verdicts import Refusal, Verdict


class Decisions:
    """A ring of the last decisions. Every method is called with the admission's lock held.

    `request_id` is the id that the client knows. Times are on the monotonic clock.
    """

    def arrived(
        self,
        now: float,
        request_id: str,
        ticket: Ticket,
        admission: Admission[Ticket],
        verdict: Verdict | None,
    ) -> None:
        """Keep the verdict on a call that has just arrived; None if it was let in."""

    def started(self, now: float, slot: Slot[Ticket]) -> None:
        """Keep that the slot's calls have been started."""

    def ended(self, now: float, slot: Slot[Ticket], demand: float) -> None:
        """Keep that the slot's calls have ended, and what each took of the server, in seconds."""

    def taken_out(self, now: float, ticket: Ticket, why: Refusal) -> None:
        """Keep that a call that waited was taken out of the queue."""

    def records(self) -> Sequence[object]:
        """Return what is kept, the oldest first."""
        return ()
