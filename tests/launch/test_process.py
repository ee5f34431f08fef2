"""A pid alone names no process: the next one may have it. Its start tells them apart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlserve.launch.down import stop_all
from mlserve.launch.process import created
from mlserve.launch.ready import mark_ready
from mlserve.launch.records import ServerRecord, read_records, remove_record, write_record
from mlserve.launch.running import server_of
from mlserve.settings import NATIVE
from tests.launch.test_records import RECORD


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads its own group, as a server does, and is none."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def old(stranger: subprocess.Popen[bytes]) -> ServerRecord:
    """The record of a server that ended, and whose pid the stranger has got."""
    since = created(stranger.pid)
    return replace(RECORD, pid=stranger.pid, pid_created=since - 5, launcher=NATIVE)


def test_a_stranger_is_neither_signalled_nor_waited_for(
    old: ServerRecord, stranger: subprocess.Popen[bytes]
) -> None:
    began = time.monotonic()
    assert server_of(old).stop(20) is False
    assert [item.was_killed for item in stop_all([old], 20, lambda _: None)] == [False]
    assert time.monotonic() - began < 10
    assert stranger.poll() is None


@pytest.mark.server
def test_down_leaves_a_stranger_alone_and_drops_the_record(
    cli, old: ServerRecord, stranger: subprocess.Popen[bytes]
) -> None:
    write_record(old)
    done = cli("down")
    assert (done.returncode, done.stderr) == (0, "no server is running\n")
    assert read_records() == []
    assert stranger.poll() is None


def test_the_record_of_a_newer_server_with_that_pid_stays_as_it_is(old: ServerRecord) -> None:
    newer = replace(old, pid_created=old.pid_created + 5, is_ready=False)
    write_record(newer)
    remove_record(old)
    mark_ready(old)
    assert read_records() == [newer]
    list(stop_all([old], 0, lambda _: None))
    assert read_records() == [newer]


@pytest.mark.parametrize(
    "change",
    [{"pid": -1}, {"pid": 10**30}, {"pid_created": "soon"}, {"up_pid": -7}, {"up_pid": "x"}],
    ids=str,
)
def test_a_record_with_a_pid_that_is_none_is_left_out(
    home: Path, change: dict[str, object]
) -> None:
    """Signals to -1 go to every process of the user."""
    write_record(RECORD)
    path = home / "state/servers/echo-m.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    told: list[str] = []
    assert read_records(told.append) == []
    assert len(told) == 1


@pytest.mark.server
@pytest.mark.parametrize(
    ("on_sigterm", "timeout", "was_killed"),
    [("lambda *_: (time.sleep(1), sys.exit())", 20, False), ("signal.SIG_IGN", 0.5, True)],
    ids=["slow", "deaf"],
)
def test_what_a_server_leaves_behind_is_stopped_with_it(
    on_sigterm: str, timeout: float, *, was_killed: bool
) -> None:
    """As with TorchServe, whose start script dies of SIGTERM before its Java server does."""
    left = (
        f"import signal, sys, time; signal.signal(signal.SIGTERM, {on_sigterm}); "
        "print('ready', flush=True); time.sleep(600)"
    )
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {left!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        [child] = psutil.Process(leader.pid).children()
        record = replace(RECORD, pid=leader.pid, pid_created=created(leader.pid))

        assert server_of(record).stop(timeout) is was_killed

        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
