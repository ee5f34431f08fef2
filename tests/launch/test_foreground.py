"""A server in the foreground, as a container runs it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from mlserve import Client
from mlserve.images import tiny_png
from mlserve.testing.processes import wait_until
from tests.harness.activation import service_manager

pytestmark = pytest.mark.server

FREE = ("--grpc-port", "0", "--rest-port", "0")


def ready_line(process) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_it_serves_is_listed_and_ends_with_sigterm(cli, export) -> None:
    export()
    up = cli.start("up", "--backend", "echo", "--foreground", *FREE)
    assert ready_line(up).startswith("m version 1 is ready")

    [server] = cli.ps()
    assert (server["status"], server["log"]) == ("ready", None)
    with Client(server["grpc"], model="m") as client:
        assert client.predict(tiny_png(), timeout=20).label == "sorrel"
    logs = cli("logs")
    assert logs.returncode == 2
    assert "echo-m runs in the foreground and has no log file" in logs.stderr
    up.send_signal(signal.SIGTERM)
    _, stderr = up.communicate(timeout=30)

    assert up.returncode == 0, stderr
    assert "version 1 of m is unloaded" in stderr
    assert cli.ps() == []


def test_down_ends_it_from_another_terminal(cli, export) -> None:
    export()
    up = cli.start("up", "--backend", "echo", "--foreground", *FREE)
    ready_line(up)

    assert cli("down").stdout == "echo-m is stopped\n"
    up.communicate(timeout=30)

    assert up.returncode == 0


def test_a_second_signal_kills_it(cli, export) -> None:
    export()
    up = cli.start("up", "--backend", "echo", "--foreground", *FREE)
    ready_line(up)
    pid = cli.ps()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)

    up.send_signal(signal.SIGINT)
    wait_until(lambda: is_pending(pid, signal.SIGTERM))
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=30)

    assert up.returncode == 128 + signal.SIGKILL
    assert cli.ps() == []


def is_pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if "Pnd:" in line]
    return any(mask & 1 << (number - 1) for mask in masks)


def test_its_exit_code_is_the_servers(cli, export, home: Path) -> None:
    export(fail_load="the weights are of another model")

    up = cli("up", "--backend", "echo", "--foreground", *FREE)

    assert up.returncode == 5
    assert "the weights are of another model" in up.stderr
    assert not (home / "state" / "servers" / "echo-m.json").exists()


def test_it_does_not_run_twice(cli, export) -> None:
    export()
    assert cli.up().returncode == 0

    up = cli("up", "--backend", "echo", "--foreground")

    assert up.returncode == 2
    assert "error: echo-m is already running (pid " in up.stderr


def test_it_serves_at_sockets_that_it_was_started_with(cli, export, tmp_path: Path) -> None:
    export()
    with service_manager(tmp_path) as manager:
        log, grpc = tmp_path / "log", manager.address("grpc")
        argv = (sys.executable, "-m", "mlserve", "up", "--backend", "echo", "--foreground")
        for _ in range(2):
            with manager.start(log, *argv) as up:
                manager.wait_told("READY=1")
                wait_until(lambda: cli.ps()[0]["status"] == "ready")
                [server] = cli.ps()
                assert (server["grpc"], server["rest"]) == (
                    grpc,
                    f"http://{manager.address('rest')}",
                )
                with Client(grpc, model="m") as client:
                    assert client.predict(tiny_png(), timeout=20).label == "sorrel"
                up.terminate()
                assert up.wait(60) == 0, log.read_text()
                assert "STOPPING=1" in manager.told()
        with manager.start(
            log, *argv, "--model", "m", "--version", "1", "--launcher", "native"
        ) as up:
            assert up.wait(60) == 2
        manager.sockets = manager.sockets[:1]
        with manager.start(log, *argv) as up:
            assert up.wait(60) == 2
        assert "are not a TCP port each for gRPC and REST" in log.read_text()
