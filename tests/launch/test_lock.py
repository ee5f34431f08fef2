"""A command that has to wait for another one which holds the lock of the state folder."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlserve import paths
from mlserve.errors import Unavailable
from mlserve.launch.records import state_lock

pytestmark = pytest.mark.slow


@pytest.fixture
def lock(home: Path) -> Iterator[Path]:
    """The lock's file, held by somebody else for as long as the test runs."""
    path = paths.state_dir() / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def test_up_waits_no_longer_than_it_was_told(cli, export, lock: Path) -> None:
    export()

    up = cli("up", "--backend", "echo", "--grpc-port", "0", "--rest-port", "0", "--wait", "0.5")

    assert up.returncode == 5
    assert "another mlserve command is starting or stopping a server" in up.stderr
    assert str(lock) in up.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", [(), ("--foreground",)])
def test_up_that_waits_can_be_interrupted(
    cli, export, lock: Path, number: signal.Signals, mode: tuple[str, ...]
) -> None:
    export()
    up = cli.start("up", "--backend", "echo", "--grpc-port", "0", "--rest-port", "0", *mode)
    process = psutil.Process(up.pid)
    give_up = time.monotonic() + 30
    while str(lock) not in {file.path for file in process.open_files()}:
        assert time.monotonic() < give_up
        assert up.poll() is None

    up.send_signal(number)

    assert up.wait(10) in (130, -signal.SIGTERM)


def test_the_lock_is_waited_for_within_a_limit(lock: Path) -> None:
    with pytest.raises(Unavailable, match="has held"), state_lock(0.05):
        pass
