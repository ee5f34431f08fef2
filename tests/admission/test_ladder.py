"""Admission of calls to a model with a ladder, which may climb or stay."""

from __future__ import annotations

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Refusal
from tests.harness.admission import KIND

QUEUE = 32


class TestOnALadder:
    """A run takes 10 ms on the first rung, and 100 ms with a climb, which one in ten needs."""

    STAYED, CLIMBED, USUAL = 0.01, 0.1, 0.019

    @pytest.fixture
    def admission(self) -> Admission[Ticket]:
        admission: Admission[Ticket] = Admission(1, QUEUE)
        for climbs, seconds in (
            (None, self.USUAL),
            (False, self.STAYED),
            (True, self.CLIMBED),
        ):
            for _ in range(20):
                admission.estimates.learn(KIND.climbing(climbs), seconds, 0.0)
        return admission

    def ticket(self, seconds: float, *, may_stay: bool) -> Ticket:
        return Ticket(KIND, seconds, on_ladder=True, may_stay=may_stay)

    def occupied(self, admission: Admission[Ticket]) -> None:
        running = self.ticket(10.0, may_stay=True)
        admission.enter(running)
        admission.start(0.0, [running])

    @pytest.mark.parametrize(
        ("seconds", "may_stay", "is_admitted", "may_climb"),
        [
            (0.2, False, True, True),
            (0.2, True, True, True),
            (0.12, False, False, True),
            (0.12, True, True, False),
        ],
    )
    def test_what_cannot_climb_is_refused_or_stays_on_the_first_rung(
        self,
        admission: Admission[Ticket],
        seconds: float,
        may_stay: bool,
        is_admitted: bool,
        may_climb: bool,
    ) -> None:
        self.occupied(admission)
        ticket = self.ticket(seconds, may_stay=may_stay)
        verdict = admission.check(0.0, ticket)
        assert (verdict is None) is is_admitted
        assert verdict is None or verdict.why is Refusal.DEADLINE
        assert ticket.may_climb is may_climb
        assert ticket.kind == (KIND if may_climb else KIND.climbing(False))

    def test_a_deadline_too_short_for_any_climb_is_for_the_first_rung(
        self, admission: Admission[Ticket]
    ) -> None:
        self.occupied(admission)
        assert admission.check(0.0, self.ticket(0.09, may_stay=False)) is None
        assert admission.check(0.0, self.ticket(0.02, may_stay=False)) is not None

    def test_what_is_left_need_only_be_enough_for_the_first_rung(
        self, admission: Admission[Ticket]
    ) -> None:
        head, behind = (self.ticket(end, may_stay=False) for end in (0.018, 5.0))
        for ticket in (head, behind):
            admission.enter(ticket)
        assert admission.judge(0.0, head) is None
        too_late = admission.judge(0.01, head)
        assert too_late is not None
        assert too_late.why is Refusal.DISPLACED

    def test_others_wait_for_what_such_calls_take_on_average(
        self, admission: Admission[Ticket]
    ) -> None:
        ladder = [self.ticket(5.0, may_stay=True) for _ in range(20)]
        for ticket in ladder[10:]:
            ticket.stay()
        for ticket in ladder:
            admission.enter(ticket)
        last = self.ticket(6.0, may_stay=True)
        last.stay()
        [(_, end)] = admission.forecast._ends(0.0, admission.waiting, last, len(ladder))
        expected = 10 * self.USUAL + 11 * self.STAYED
        assert expected < end < expected * 1.5
