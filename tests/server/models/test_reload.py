"""Versions come and go under load: no request fails, and what is refused is told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from mlserve.testing.processes import wait_until
from tests.harness.load import Load

pytestmark = pytest.mark.server


def status(server: Any) -> subprocess.CompletedProcess[str]:
    """What `mlserve status` says of the server."""
    argv = [sys.executable, "-m", "mlserve", "status", "--endpoint", server.grpc, "--model", "m"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_no_request_fails_while_versions_come_and_go(model: Any, start: Any) -> None:
    """Switches, a version that is broken, and one whose folder goes away while it serves."""
    model.put(1, delay=0.005)
    server = start("--threads", "2")
    load = Load(server.grpc, server.rest, "m")
    load.start()
    try:
        wait_until(lambda: load.answered > 20)
        for version in (2, 3):
            model.put(version, delay=0.005, load_delay=0.1)
            wait_until(lambda version=version: server.state(version) == "AVAILABLE")
            wait_until(lambda version=version: server.state(version - 1) == "END")
        model.put(4, fail_load="this file is damaged")
        wait_until(lambda: server.state(4) == "END")
        for version in (4, 3):
            (model.base_path / str(version)).rename(model.base_path / f"gone-{version}")
        wait_until(lambda: (server.state(2), server.state(3)) == ("AVAILABLE", "END"))
        model.put(5, delay=0.005)
        wait_until(lambda: server.state(5) == "AVAILABLE")
        answered = load.answered
        wait_until(lambda: load.answered > answered + 50)
    finally:
        load.stop()
    assert load.lost == []
    assert load.refused == 0
    assert "Traceback" not in server.log()


def test_status_says_why_a_new_version_is_refused(model: Any, start: Any) -> None:
    model.put(1)
    server = start()
    model.put(2, fail_load="this file is damaged")
    wait_until(lambda: server.state(2) == "END")

    told = status(server)

    assert told.returncode == 0, told.stderr
    rows = [line.split(maxsplit=2) for line in told.stdout.splitlines()]
    assert rows[1:3] == [["2", "END", "this file is damaged"], ["1", "AVAILABLE"]]


def test_what_comes_during_a_slow_load_is_seen_after_it(model: Any, start: Any) -> None:
    """Loads follow one another, and the one that serves is not disturbed by them."""
    model.put(1, label="one")
    server = start()
    model.put(2, load_delay=60)
    wait_until(lambda: server.state(2) == "LOADING")
    model.put(3, label="three")
    assert server.post({"inputs": ["x"]}).json() == {"outputs": ["one"]}
    model.release()
    wait_until(lambda: server.state(3) == "AVAILABLE")
    wait_until(lambda: (server.state(1), server.state(2)) == ("END", "END"))
    assert server.post({"inputs": ["x"]}).json() == {"outputs": ["three"]}
