"""The replicas change under load, fall silent, and are not ready: no request is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from mlserve_ray.ingress import EndpointState

from mlserve.testing.processes import wait_until
from mlserve.testing.questions import request_of
from tests.harness.load import Load
from tests.harness.replica import Does, Replica
from tests.harness.server import EchoServers

from .conftest import endpoint_of

pytestmark = pytest.mark.server
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
Start = Callable[..., Sequence[Replica]]


def test_replicas_come_and_go_under_load(front: Any, pair: Any) -> None:
    front.use(*pair)
    first, second = (endpoint_of(one) for one in pair)
    load = Load(front.grpc, front.rest.removeprefix("http://"), "m")
    load.start()
    try:
        for _ in range(10):
            for kept, other in ((first, second), (second, first)):
                answered = load.answered
                front.ingress.set_endpoints([kept, replace(other, state=EndpointState.DRAINING)])
                wait_until(lambda before=answered: load.answered > before + 5)
                front.ingress.set_endpoints([kept])
                wait_until(lambda before=answered: load.answered > before + 10)
                front.ingress.set_endpoints([kept, other])
                wait_until(lambda: front.is_ready(*pair))
    finally:
        load.stop()
    assert load.lost == []
    assert load.refused == 0
    assert front.ingress.counters().refused == 0


def test_a_server_that_drains_or_dies_loses_nothing(front: Any, servers: EchoServers) -> None:
    """One is stopped without having been taken out, one is killed: each under load."""
    staying, draining, killed = servers(), servers(), servers()
    front.use(staying, draining, killed)
    load = Load(front.grpc, front.rest.removeprefix("http://"), "m")
    load.start()
    try:
        wait_until(lambda: load.answered > 50)
        draining.process.terminate()
        assert draining.exit_code() == 0
        killed.process.kill()
        killed.process.wait()
        answered = load.answered
        wait_until(lambda: load.answered > answered + 100)
    finally:
        load.stop()
    assert load.lost == []
    assert load.refused == 0


@PROTOCOLS
def test_a_silent_replica_is_found_and_its_requests_asked_again(
    front: Any, pair: Any, servers: EchoServers, protocol: str
) -> None:
    """Those that it has, too, though they have no deadline: within a few seconds."""
    silent, other = pair
    front.use(silent)
    silent.process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(front.ask, protocol, body=_question(protocol)) for _ in range(4)]
            wait_until(lambda: front.active(protocol) == 4)
            stopped = time.monotonic()
            front.ingress.set_endpoints([endpoint_of(silent), endpoint_of(other)])
            wait_until(lambda: front.is_ready(other))
            assert time.monotonic() - stopped < 10
            assert {one.result(20).code for one in asked} == {"OK"}
    finally:
        silent.process.send_signal(signal.SIGCONT)
    wait_until(lambda: front.is_ready(silent, other))


def _question(protocol: str) -> bytes:
    return request_of("m", b"x").SerializeToString() if protocol == "grpc" else b'{"inputs":["x"]}'


@PROTOCOLS
def test_a_replica_that_is_not_ready_gets_nothing(
    front: Any, replicas: Start, protocol: str
) -> None:
    first, second = replicas(Does.ANSWER, Does.ANSWER)
    front.use(first, second)
    first.is_ready = False
    wait_until(lambda: front.is_ready(second))
    first.asked.clear()
    assert {front.ask(protocol).code for _ in range(10)} == {"OK"}
    assert not first.asked
    second.is_ready = False
    wait_until(front.is_ready)
    assert front.ask(protocol).code == "OK"  # they know best: a server that is not ready refuses


def test_the_least_loaded_replica_is_asked(front: Any, replicas: Start) -> None:
    slow, fast = replicas(Does.ANSWER, Does.ANSWER)
    slow.delay, fast.delay = 0.4, 0.01
    front.use(slow, fast)
    with ThreadPoolExecutor(4) as pool:
        codes = {one.code for one in pool.map(lambda _: front.ask("rest"), range(80))}
    assert codes == {"OK"}
    assert len(slow.asked) * 3 < len(fast.asked)
