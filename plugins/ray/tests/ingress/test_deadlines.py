"""The deadline travels as time left, and a caller's leaving as a hang-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest

from mlserve.testing.processes import wait_until
from mlserve.wire.services import PREDICTION, method_path
from tests.harness.raw_http2 import RawHttp2, message
from tests.harness.replica import Does, Replica
from tests.harness.requests import hang_up

pytestmark = pytest.mark.server
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
Start = Callable[..., Sequence[Replica]]
EXPECTED = "x-envoy-expected-rq-timeout-ms"
LATE = "the deadline passed while a replica was at work"
TRIES = 20
"""The replica's gRPC has a clock of its own, which is the first in about one try of six."""


@PROTOCOLS
def test_each_replica_is_told_the_time_that_is_left(
    front: Any, replicas: Start, protocol: str
) -> None:
    """The second replica less than the first, as a part has passed by then."""
    first, second = replicas(Does.WAIT, Does.WAIT)
    front.use(first, second)
    # The first one asked dies after a while; the request is then asked of the other.
    began = time.monotonic()

    def end_the_first() -> bool:
        asked = [one for one in (first, second) if one.asked]
        if not asked or time.monotonic() - began < 0.3:
            return False
        other = second if asked[0] is first else first
        other.does = Does.ANSWER
        asked[0].die()
        return True

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(front.ask, protocol, timeout=20)
        wait_until(end_the_first)
        assert answer.result().code == "OK"
    left = sorted(_left(protocol, one.asked[0]) for one in (first, second))
    assert left[1] <= 20
    assert left[0] < 19.9
    assert left[0] > 10


def _left(protocol: str, headers: dict[str, str]) -> float:
    return float(headers["remaining"]) if protocol == "grpc" else float(headers[EXPECTED]) / 1000


@PROTOCOLS
def test_no_deadline_becomes_none(front: Any, replicas: Start, protocol: str) -> None:
    """Its patience is the replica's to judge: nothing here may look like a deadline."""
    [replica] = replicas(Does.ANSWER)
    front.use(replica)
    assert front.ask(protocol).code == "OK"
    [headers] = replica.asked
    assert not [name for name in headers if "timeout" in name and not name.endswith("is-timeout")]
    if protocol == "grpc":
        assert float(headers["remaining"]) > 1e9  # that is gRPC's word for none


def test_nobody_gives_orders_to_envoy(front: Any, replicas: Start) -> None:
    [replica] = replicas(Does.REFUSE)
    front.use(replica)
    orders = {"x-envoy-max-retries": "9", "x-envoy-retry-on": "retriable-4xx", EXPECTED: "4000"}
    httpx.post(f"{front.rest}/v1/models/m:predict", headers=orders, timeout=20)
    [headers] = replica.asked
    assert headers[EXPECTED] == "4000"  # the deadline of an Envoy in front of this one
    assert "x-envoy-max-retries" not in headers
    assert "x-envoy-upstream-rq-timeout-ms" not in headers


@pytest.mark.parametrize("value", ["abc", "-1", "0", "999999999999999", ""])
def test_an_odd_timeout_is_the_replicas_to_judge(front: Any, replicas: Start, value: str) -> None:
    [replica] = replicas(Does.ANSWER)
    front.use(replica)
    headers = {"X-Request-Timeout-Ms": value}
    answer = httpx.post(f"{front.rest}/v1/models/m:predict", headers=headers, timeout=20)
    assert answer.status_code == 200
    assert replica.asked[0]["x-request-timeout-ms"] == value


def test_no_answer_in_time_over_rest(front: Any, replicas: Start) -> None:
    """The caller waits longer than it said, so it hears of the deadline from the ingress."""
    [replica] = replicas(Does.WAIT)
    front.use(replica)
    answer = front.ask("rest", timeout=0.3)
    assert answer.code == "DEADLINE_EXCEEDED"
    assert answer.text.strip() == f'{{"error":"{LATE}"}}'
    assert answer.headers["content-type"] == "application/json"
    wait_until(lambda: replica.left == 1)


def test_no_answer_in_time_over_grpc(front: Any, replicas: Start) -> None:
    [replica] = replicas(Does.WAIT)
    front.use(replica)
    path = method_path(PREDICTION, "Predict")
    heard = []
    while LATE not in heard:
        assert len(heard) < TRIES, heard
        with RawHttp2(front.grpc) as client:
            client.call(1, path, [("grpc-timeout", "300m")], data=message(b""))
            answer = client.answer(1)
        assert answer.status == 4
        heard.append(answer.message)
        wait_until(lambda: replica.left == len(heard))


@PROTOCOLS
def test_a_client_that_leaves_is_gone_at_the_replica(
    front: Any, replicas: Start, protocol: str
) -> None:
    [replica] = replicas(Does.WAIT)
    front.use(replica)
    if protocol == "rest":
        hang_up(f"{front.rest}/v1/models/m:predict", {}, once=lambda: len(replica.asked) == 1)
    else:
        call = front.channel.unary_unary(method_path(PREDICTION, "Predict")).future(b"")
        wait_until(lambda: len(replica.asked) == 1)
        call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED
    wait_until(lambda: replica.left == 1, timeout=25)  # it would wait for 30 s itself
