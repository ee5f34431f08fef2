"""A second replica is asked beside one that takes long: the faster answer counts, on a budget."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from mlserve_ray.ingress.hedging import BUDGET, Hedging, Look, quantile_of

from mlserve.testing.processes import wait_until
from tests.harness.replica import Does, Replica

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
Start = Callable[..., Sequence[Replica]]


def test_a_quantile_is_the_end_of_a_bucket() -> None:
    answers = {1.0: 0, 10.0: 980, 20.0: 995, 100.0: 1000}
    assert quantile_of(answers, 0.98) == 0.01
    assert quantile_of(answers, 0.99) == 0.02
    assert quantile_of(answers, 0.999) == 0.1


def test_few_answers_say_nothing() -> None:
    assert quantile_of({1.0: 100}, 0.99) is None
    assert quantile_of({}, 0.99) is None


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.99])
def test_the_budget_holds_whatever_is_wanted(wanted: float) -> None:
    """Also in the minute in which every answer takes ten times as long."""
    hedging, rng = Hedging(wanted), random.Random(7)
    bounds = [float(2**n) for n in range(14)]
    answers, requests, hedged = dict.fromkeys(bounds, 0), 0, 0
    counted: list[tuple[int, int]] = []
    for quarter in range(4 * 360):
        slowness = 10 if 150 <= quarter / 4 < 210 else 1
        look = Look(quarter / 4, dict(answers), requests, hedged)
        patience = hedging.patience(look, active=10, replicas=2)
        for _ in range(25):
            took = rng.expovariate(1 / 20) * slowness
            hedged += patience is not None and took / 1000 > patience
            requests += 1
            for bound in bounds:
                answers[bound] += took <= bound
        counted.append((requests, hedged))
    for first, last in zip(counted, counted[480:], strict=False):
        assert last[1] - first[1] <= BUDGET * (last[0] - first[0])
    assert hedged > requests / 200


def test_one_replica_is_not_asked_twice() -> None:
    hedging = Hedging(0.99)
    look = Look(0.0, {1.0: 0}, 0, 0)
    hedging.patience(look, 0, 2)
    many = {1.0: 9900, 100.0: 10_000}
    assert hedging.patience(Look(100.0, many, 10_000, 0), 0, 2) == 0.001
    assert hedging.patience(Look(101.0, many, 10_000, 0), 0, 1) is None


@pytest.mark.server
@PROTOCOLS
def test_the_slow_replica_is_let_go(front: Any, replicas: Start, protocol: str) -> None:
    slow, fast = replicas(Does.WAIT, Does.ANSWER)
    front.use(slow, fast)
    _set_patience(front, 1.0)  # longer than the fast one takes on a busy machine
    asked = 0
    while not slow.left:  # whenever it is the one that is asked
        assert front.ask(protocol, timeout=20).code == "OK"
        asked += 1
    wait_until(lambda: front.ingress.counters().requests == asked)
    counters = front.ingress.counters()
    assert counters.hedged == slow.left == len(slow.asked)
    assert (counters.redispatched, counters.refused) == (0, 0)


@pytest.mark.server
@PROTOCOLS
def test_a_second_replica_that_refuses_harms_nothing(
    front: Any, replicas: Start, protocol: str
) -> None:
    slow, full = replicas(Does.ANSWER, Does.REFUSE)
    slow.delay = 0.5
    front.use(slow, full)
    _set_patience(front, 0.1)
    assert {front.ask(protocol, timeout=20).code for _ in range(6)} == {"OK"}


def _set_patience(front: Any, seconds: float) -> None:
    front.ingress._route(patience=seconds)
    routes = "/config_dump?resource=dynamic_route_configs"
    wait_until(lambda: all(b"per_try_timeout" in admin.get(routes) for admin in front.admins))
