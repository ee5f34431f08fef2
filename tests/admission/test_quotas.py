"""A token with a share has that much of the time while others wait, whatever its deadlines are."""

from __future__ import annotations

from random import Random

import pytest

from mlserve.admission.admission import Admission
from mlserve.admission.callers import Caller
from mlserve.admission.estimates import CostKey
from mlserve.admission.quotas import Quotas
from mlserve.admission.replay import Arrival, Call, replay
from mlserve.admission.tickets import Ticket
from mlserve.admission.verdicts import Refusal

KIND = CostKey("m", 1, "s", 1)
DEMAND, SHARE = 0.01, 0.3
BATCH, WEB = Caller("rest", token="batch"), Caller("rest", token="web")
FROM, UNTIL = 5.0, 20.0


def arrivals(caller: Caller, load: float, timeout: float, seed: int) -> list[Arrival]:
    """Calls at random that need `load` of the server's time, each with that deadline."""
    rng, at, found = Random(seed), 0.0, []
    while load and at < UNTIL:
        at += rng.expovariate(load / DEMAND)
        found.append(Arrival(at, KIND, DEMAND, timeout, is_asked=True, caller=caller))
    return found


def calls(batch: tuple[float, float], web: tuple[float, float]) -> list[Call]:
    both = [*arrivals(BATCH, *batch, seed=1), *arrivals(WEB, *web, seed=2)]
    both.sort(key=lambda arrival: arrival.at)
    return replay(both, Admission(slots=2, token_shares={"batch": SHARE}))


def used(done: list[Call], caller: Caller) -> float:
    """Return the part of the server's time that the caller's calls had."""
    starts = [call.started_at for call in done if call.caller == caller]
    had = sum(DEMAND for at in starts if at is not None and FROM < at <= UNTIL)
    return had / (UNTIL - FROM)


@pytest.mark.slow
@pytest.mark.parametrize("web", [(0.8, 30.0), (0.8, 1.0), (2.0, 1.0)])
@pytest.mark.parametrize("timeout", [0.5, 1.0, 10.0])
def test_no_deadline_gets_a_token_more_than_its_share(
    web: tuple[float, float], timeout: float
) -> None:
    done = calls((2.0, timeout), web)
    batch, others = used(done, BATCH), used(done, WEB)
    assert batch <= SHARE + 0.02
    assert others >= min(web[0], 1 - SHARE) - 0.03
    assert batch + others > 0.97


@pytest.mark.slow
def test_what_others_do_not_want_it_may_have() -> None:
    assert used(calls((2.0, 0.5), (0.5, 30.0)), BATCH) > 0.46
    assert used(calls((2.0, 0.5), (0.0, 1.0)), BATCH) > 0.97


@pytest.mark.slow
def test_a_call_that_is_let_in_is_answered_at_the_rate_of_its_share() -> None:
    done = [call for call in calls((2.0, 1.0), (2.0, 1.0)) if call.caller == BATCH]
    in_vain = [c for c in done if c.refused in (Refusal.DISPLACED, Refusal.EXPIRED)]
    answered = [call for call in done if call.is_answered]
    assert len(answered) > 300
    assert len(in_vain) < 0.05 * len(answered)


def test_starts_are_paid_for_at_the_rate_of_the_share() -> None:
    quotas = Quotas({"batch": SHARE})
    batch, web = Ticket(KIND, 9.0, caller=BATCH), Ticket(KIND, 9.0, caller=WEB)
    quotas.note(1.0, batch, 0.03)
    quotas.note(1.0, web, 0.03)
    assert quotas.used_up(1.09) == {"batch"}
    assert not quotas.used_up(1.11)
    quotas.note(1.15, batch, 0.03)  # 0.05 s after it might have
    assert quotas.used_up(1.19) == {"batch"}
    assert not quotas.used_up(1.21)
    quotas.note(9.0, batch, 0.03)  # long after: no more than one is saved up
    quotas.note(9.0, batch, 0.03)
    assert quotas.used_up(9.09) == {"batch"}


def test_a_token_in_debt_goes_after_all_others_that_may_start() -> None:
    admission = Admission[Ticket](1, token_shares={"batch": SHARE})
    first, second = (Ticket(KIND, due, caller=BATCH) for due in (1.0, 2.0))
    web = Ticket(KIND, 9.0, caller=WEB)
    admission.estimates.learn(KIND, DEMAND, 0.0)
    for ticket in (first, second, web):
        admission.enter(ticket)
    admission.end(DEMAND, admission.start(0.0, [first]))
    assert admission.next(DEMAND) is web
    assert admission.next(DEMAND, {web}) is second
