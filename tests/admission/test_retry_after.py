"""When a refused client should come back, by admission's queue and slots, on a simulated clock."""

from __future__ import annotations

import pytest

from mlserve.admission.admission import Admission, Ticket, Verdict
from mlserve.admission.estimates import CostKey
from mlserve.admission.retry_after import UNKNOWN
from mlserve.admission.verdicts import Refusal

KIND = CostKey.from_rows("m", 1, "serving_default", 1)


def full(running: int) -> Admission[Ticket]:
    """A server that runs as many calls as it can, since 0.0, and lets none wait."""
    admission: Admission[Ticket] = Admission(running, 0)
    for _ in range(running):
        ticket = Ticket(KIND, 60.0)
        admission.enter(ticket)
        admission.start(0.0, [ticket])
    return admission


def test_without_an_estimate_a_second() -> None:
    assert full(2).check_room(0.5) == Verdict(Refusal.QUEUE_FULL, UNKNOWN)


@pytest.mark.parametrize(
    ("running", "now", "seconds"),
    [
        (1, 0.5, 1.5),  # it needs two seconds, and has had half of one
        (2, 1.0, 3.0),  # the two share the server: each needs four seconds, and has had one
    ],
)
def test_a_full_queue_until_the_next_call_ends(running: int, now: float, seconds: float) -> None:
    admission = full(running)
    admission.estimates.learn(KIND, 2.0, 0.0)

    verdict = admission.check_room(now)

    assert verdict == Verdict(Refusal.QUEUE_FULL, pytest.approx(seconds))


def test_never_at_once() -> None:
    admission = full(1)
    admission.estimates.learn(KIND, 2.0, 0.0)

    verdict = admission.check_room(2.0)  # the call is due to end now

    assert verdict is not None
    assert 0 < verdict.seconds < 0.01
