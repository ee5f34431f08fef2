"""What a gRPC message costs is bounded before anything is made of it, on every method.

Each attack of `benchmarks/attacks_grpc.py` is made on a server process. It is refused, health is
answered meanwhile, the server's memory and log stay small, and the next caller is answered.
"""

from __future__ import annotations

import importlib.util
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlserve.tensors import DType

pytestmark = [pytest.mark.server, pytest.mark.alone]

FILE = Path(__file__).parents[4] / "benchmarks" / "attacks_grpc.py"
MOST_MEMORY = 700 * 2**20
"""Bytes more than before: a message of 64 MiB is there several times on its way."""
LONGEST_SILENCE = 1.5
"""Seconds that health may take, with the client and the server on two busy cores."""
TRIES = 3
"""How often an attack is made until it costs too little: this machine may be busy with something
else, and an attack that works does so each time."""


def _attacks() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("attacks_grpc", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.ATTACKS
    return found


ATTACKS = _attacks()


class Health:
    """Asks for the server's health again and again; `slowest` is the longest that it took."""

    def __init__(self, address: str) -> None:
        self.slowest = 0.0
        self._address = address
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self._is_over.wait(0.01):
                started = time.monotonic()
                stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
                self.slowest = max(self.slowest, time.monotonic() - started)


@pytest.fixture
def peak(server: Any) -> Callable[[], int]:
    """Gives the most memory that the server has had since the test began, above that then."""
    process = Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")
    before = psutil.Process(server.process.pid).memory_info().rss

    def above() -> int:
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 - before

    return above


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_the_attacker_more(
    server: Any, peak: Any, name: str, predict_on: Any, request_of: Any
) -> None:
    for _ in range(TRIES):
        said = len(server.log())
        with Health(server.grpc) as health:
            ATTACKS[name](server.grpc)
        if health.slowest < LONGEST_SILENCE:
            break
    assert health.slowest < LONGEST_SILENCE
    assert peak() < MOST_MEMORY
    assert len(server.log()) - said < 5000
    assert "Traceback" not in server.log()
    image = request_of(image=(np.array([b"x"], object), DType.BYTES))
    assert predict_on(server, image).result().outputs["output_0"].string_val == [b"sorrel"]


def test_three_million_inputs_do_not_end_a_server_that_may_have_3_gb(
    start: Any, model: Any, predict_on: Any, request_of: Any
) -> None:
    """Where memory cannot be had, protobuf does not fail: it ends the process."""
    model.put(1)
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9))
    ATTACKS["3 million inputs"](server.grpc)
    assert server.process.poll() is None
    image = request_of(image=(np.array([b"x"], object), DType.BYTES))
    assert predict_on(server, image).result().outputs["output_0"].string_val == [b"sorrel"]
