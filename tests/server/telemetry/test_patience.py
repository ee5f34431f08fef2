"""What a server shows of its callers' patience, after callers that hung up on it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from mlserve.client import Client
from mlserve.testing.processes import wait_until
from tests.harness.requests import hang_up
from tests.harness.server import serving

pytestmark = pytest.mark.server

TIMEOUT = 0.6
"""Seconds after which the callers hang up."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server from which one caller took its answer, and on which six have hung up."""
    with serving(tmp_path_factory.mktemp("left"), "--drain-timeout=0.1") as server:
        hang_up_on(server)
        yield server


def hang_up_on(server: Any) -> None:
    assert server.post({"inputs": ["x"]}).status_code == 200
    body = {"inputs": [20.0], "signature_name": "slow"}
    url = f"http://{server.rest}/v1/models/m:predict"

    def have_waited() -> bool:
        wait_until(lambda: in_flight_on(server) == 6)
        since = time.monotonic()
        return wait_until(lambda: time.monotonic() - since > TIMEOUT)

    hang_up(url, body, once=have_waited, headers={"User-Agent": "hasty/1.0 (x)"}, callers=6)
    wait_until(lambda: [kind["left"] for kind in seen_by(server)].count(6) == 3)


def seen_by(server: Any) -> list[dict[str, Any]]:
    kinds: list[dict[str, Any]] = httpx.get(f"http://{server.rest}/v2").json()["parameters"][
        "patience"
    ]
    return kinds


def about_the_timeout(seconds: float) -> bool:
    # The server begins to count later than the client, and a busy one sees it leave later.
    return 0.1 * TIMEOUT < seconds < 10


def test_the_metadata_has_it_by_kind_of_caller(left: Any) -> None:
    kinds = {(kind["transport"], kind["agent"]): kind for kind in seen_by(left)}

    hasty = kinds["rest", "hasty/1.0"]
    assert hasty["is_known"]
    assert about_the_timeout(hasty["seconds"])
    assert (hasty["left"], hasty["stayed"]) == (6, 0)
    assert kinds["rest", ""]["left"] == 6
    assert kinds["", ""]["left"] == 6
    assert "127.0.0.1" not in json.dumps(seen_by(left))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_client_reads_it(left: Any, protocol: str) -> None:
    with Client(left.endpoint(protocol)) as client:
        load = client.load()
    assert load is not None
    hasty = next(kind for kind in load.patience if kind.agent == "hasty/1.0")
    assert hasty.is_known
    assert about_the_timeout(hasty.seconds)
    kind, seen = str(hasty).split("; ")
    assert kind.startswith("callers over rest (hasty/1.0) without a deadline hang up after ")
    assert seen == "seen: 6 that hung up, 0 that did not"


def test_the_metric_has_it_by_transport(left: Any) -> None:
    page = httpx.get(f"http://{left.rest}/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("mlserve_patience_seconds{")]

    assert [line.split()[0] for line in lines] == ['mlserve_patience_seconds{transport="rest"}']
    assert about_the_timeout(float(lines[0].split()[1]))


def test_status_says_it_once(left: Any, cli: Any) -> None:
    result = cli("status", "--endpoint", f"http://{left.rest}")

    told = [line for line in result.stdout.splitlines() if line.startswith("patience: ")]
    assert len(told) == 1
    assert told[0].startswith("patience: callers over rest without a deadline hang up after ")


def test_callers_with_a_deadline_say_nothing(model: Any, start: Callable[..., Any]) -> None:
    model.put(7)
    server = start("--drain-timeout=0.1")
    body = {"inputs": [30.0], "signature_name": "slow"}
    hang_up(
        f"http://{server.rest}/v1/models/m:predict",
        body,
        once=lambda: in_flight_on(server) == 6,
        headers={"X-Request-Timeout-Ms": "60000"},
        callers=6,
    )
    wait_until(lambda: cancelled_on(server) == 6)
    assert seen_by(server) == []


def test_who_came_while_the_server_stood_still_says_nothing_by_leaving(
    model: Any, start: Callable[..., Any]
) -> None:
    """They have waited for longer than the server could see."""
    model.put(7)
    server = start("--drain-timeout=0.1")
    assert server.post({"inputs": ["x"]}).status_code == 200
    body = json.dumps({"inputs": [30.0], "signature_name": "slow"}).encode()
    head = f"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = server.rest.split(":")
    server.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    with ExitStack() as callers:
        for _ in range(6):
            caller = callers.enter_context(socket.create_connection((host, int(port))))
            caller.sendall(head.encode() + body)
        wait_until(lambda: time.monotonic() - stopped > 0.5)
        server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: in_flight_on(server) == 6)
    wait_until(lambda: cancelled_on(server) == 6)
    assert {kind["left"] for kind in seen_by(server)} <= {0}


def in_flight_on(server: Any) -> float:
    page = httpx.get(f"http://{server.rest}/metrics").text
    names = ("mlserve_requests_running ", "mlserve_requests_waiting ")
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(names))


def cancelled_on(server: Any) -> float:
    page = httpx.get(f"http://{server.rest}/metrics").text
    return sum(float(line.split()[-1]) for line in page.splitlines() if '"cancelled"' in line)
