"""A request that one replica does not answer is asked of another: when, how often, and when not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from mlserve.testing.processes import wait_until
from tests.harness.replica import Does, Replica

pytestmark = pytest.mark.server
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
Start = Callable[..., Sequence[Replica]]


def asked(*replicas: Replica) -> int:
    return sum(len(one.asked) for one in replicas)


@PROTOCOLS
def test_a_refusal_that_another_replica_can_answer_is_none(
    front: Any, replicas: Start, protocol: str
) -> None:
    full, free = replicas(Does.REFUSE, Does.ANSWER)
    front.use(full, free)

    codes = {front.ask(protocol, timeout=20).code for _ in range(30)}
    assert front.get("/mlserve/replicas").status_code == 503  # this is not counted

    assert codes == {"OK"}
    assert asked(full) > 0
    assert asked(free) == 30
    wait_until(lambda: front.ingress.counters().requests == 30)
    counters = front.ingress.counters()
    assert (counters.redispatched, counters.hedged, counters.refused) == (asked(full), 0, 0)


@PROTOCOLS
def test_overload_is_refused_by_two_replicas_and_no_more(
    front: Any, replicas: Start, protocol: str
) -> None:
    """However many there are; and the client hears what the second one says."""
    full = replicas(*[Does.REFUSE] * 4)
    front.use(*full)

    answers = [front.ask(protocol, timeout=20) for _ in range(20)]

    assert {one.code for one in answers} == {"RESOURCE_EXHAUSTED"}
    assert asked(*full) == 40
    hint = ("retry-after-ms", "3000") if protocol == "grpc" else ("retry-after", "3")
    price = "mlserve-price" if protocol == "grpc" else "x-mlserve-price"
    assert answers[0].headers[hint[0]] == hint[1]
    assert answers[0].headers[price] == "0.50"
    wait_until(lambda: front.ingress.counters().refused == 20)


@PROTOCOLS
def test_the_only_replica_is_asked_once(front: Any, replicas: Start, protocol: str) -> None:
    [full] = replicas(Does.REFUSE)
    front.use(full)
    assert front.ask(protocol, timeout=20).code == "RESOURCE_EXHAUSTED"
    assert asked(full) == 1


def test_a_refusal_on_the_head_of_a_body_that_still_arrives(front: Any, replicas: Start) -> None:
    full, free = replicas(Does.REFUSE, Does.ANSWER)
    front.use(full, free)

    def halves(before: int) -> Iterator[bytes]:
        yield b"x" * 100
        wait_until(lambda: asked(full, free) > before)
        yield b"x" * 100

    codes = [front.ask("rest", timeout=20, body=halves(asked(full, free))).code for _ in range(10)]
    large = [front.ask("rest", timeout=20, body=b"x" * 20_000_000).code for _ in range(5)]

    assert {*codes, *large} == {"OK"}
    assert asked(full) > 0


@PROTOCOLS
def test_a_request_passes_two_dead_replicas(front: Any, replicas: Start, protocol: str) -> None:
    """Before Envoy has noticed that they are dead: their health checks are answered."""
    first, second, third = replicas(Does.ANSWER, Does.ANSWER, Does.ANSWER)
    front.use(first, second, third)
    first.die()
    second.die()
    codes = [front.ask(protocol, timeout=20).code for _ in range(20)]
    assert set(codes) == {"OK"}
    assert asked(third) == 20


def test_what_ends_replicas_does_not_end_all_of_them(front: Any, replicas: Start) -> None:
    fragile = replicas(*[Does.DIE] * 5)
    front.use(*fragile)
    answer = front.ask("rest", timeout=20)
    assert answer.code == "UNAVAILABLE"
    assert answer.text.strip() == '{"error":"the replica ended before it had answered"}'
    assert asked(*fragile) == 3


@pytest.mark.parametrize("is_so_at_the_start", [True, False])
def test_a_model_that_is_not_idempotent_is_asked_once(
    start: Any, replicas: Start, is_so_at_the_start: bool
) -> None:
    front = start(is_idempotent=not is_so_at_the_start)
    fragile, sound = replicas(Does.DIE, Does.ANSWER)
    if not is_so_at_the_start:  # another version is, which comes later
        front.ingress.set_idempotent(False)
    front.use(fragile, sound)

    codes = [front.ask("rest", timeout=20).code for _ in range(20)]

    assert codes.count("UNAVAILABLE") == asked(fragile) > 0
    fragile.die()  # what it has never heard may be asked of the other
    sound.asked.clear()
    assert {front.ask("rest", timeout=20).code for _ in range(10)} == {"OK"}
