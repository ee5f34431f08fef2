"""A server that is killed, frozen, starved, or loses its files: what its clients see."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlserve.client import Client
from mlserve.errors import DeadlineExceeded, Unavailable
from mlserve.testing.processes import wait_until
from tests.harness.ports import free_ports

pytestmark = pytest.mark.server

PROTOCOLS = ("grpc", "rest")
PHOTO = b"\xff\xd8\xff a photo"
LATENESS = 0.25
TRIES = 4
"""As in `test_deadline.py`."""


@pytest.mark.parametrize("attempts", ["1", "5"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_is_killed_in_mid_request(
    servers: Any, predicting: Any, protocol: str, attempts: str
) -> None:
    """Nobody takes its place: asking again does not help, and the outcome is the same."""
    server = servers(delay=4)
    before = len(servers.model.runs())
    asking = predicting(server.endpoint(protocol), "--timeout", "40", "--max-attempts", attempts)
    wait_until(lambda: len(servers.model.runs()) > before)
    server.process.kill()
    stdout, stderr = asking.communicate(timeout=30)
    assert (asking.returncode, stdout) == (5, "")
    assert json.loads(stderr)["error"]["kind"] == "unavailable"


@pytest.mark.alone
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_is_frozen_does_not_hold_its_client(servers: Any, protocol: str) -> None:
    server = servers()
    with server.client(protocol) as client:
        client.predict(PHOTO, timeout=10)
        server.process.send_signal(signal.SIGSTOP)
        try:
            assert any(_seconds_until_late(client) < 1 + LATENESS for _ in range(TRIES))
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert client.predict(PHOTO, timeout=10).label == "sorrel"


def _seconds_until_late(client: Client) -> float:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.predict(PHOTO, timeout=1)
    return time.monotonic() - started


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_on_a_full_disk_does_not_stop_it(servers: Any, log_format: str) -> None:
    servers.model.put(1)
    argv = [sys.executable, "-m", "mlserve.server", "--backend", "echo", "--model", "m"]
    argv += ["--base-path", str(servers.model.base_path), "--log-format", log_format]
    grpc_port, rest_port = map(str, free_ports(2))
    argv += ["--grpc-port", grpc_port, "--rest-port", rest_port]
    with Path("/dev/full").open("w") as full, subprocess.Popen(argv, stderr=full) as process:
        try:
            for endpoint in (f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}"):
                with Client(endpoint, model="m") as client:
                    label = wait_until(lambda client=client: _label(client, process))
                assert label == "sorrel"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def _label(client: Client, process: subprocess.Popen[bytes]) -> str:
    assert process.poll() is None
    try:
        return client.predict(PHOTO, timeout=10).label
    except Unavailable:
        return ""


def test_its_folder_is_removed_and_comes_back(servers: Any) -> None:
    """What is loaded is served on while the base path cannot be read."""
    server = servers(label="one")
    shutil.rmtree(servers.model.base_path)
    wait_until(lambda: "cannot be read" in server.log() or "No such file" in server.log())
    with server.client() as client:
        assert client.predict(PHOTO, timeout=10).label == "one"
        servers.model.put(2, label="two")
        wait_until(lambda: client.predict(PHOTO, timeout=10).label == "two")


def test_it_lives_on_without_file_descriptors(servers: Any) -> None:
    """Connections take all it may have; once some are given back, it answers again."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = servers("--max-connections", "10000")
    used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    host, _, port = server.rest.rpartition(":")
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(socket.create_connection((host, int(port)), timeout=5))
        wait_until(lambda: _fds(server.process.pid) >= used + 15)
        assert server.process.poll() is None, server.log()
    for protocol in PROTOCOLS:
        with server.client(protocol) as client:
            assert wait_until(lambda client=client: _label(client, server.process)) == "sorrel"
    assert len(server.log()) < 10_000, "it says so, and not for each connection"


def _fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
