"""The lamps: a real terminal in place of a serial port, and real commands."""

from __future__ import annotations

import errno
import gc
import os
import shlex
import signal
import sys
import termios
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlserve.errors import UsageError
from mlserve.gate.lamp import ExecLamp, LampFailed, SerialLamp
from mlserve.testing.processes import wait_until


@pytest.fixture
def terminal() -> Iterator[tuple[int, Path]]:
    """A pseudo-terminal: the end of the lamp, and the device of the gate."""
    controller, device = os.openpty()
    yield controller, Path(os.ttyname(device))
    for fd in (controller, device):
        os.close(fd)


def test_the_port_gets_a_word_and_a_line_feed(terminal: tuple[int, Path]) -> None:
    controller, device = terminal
    lamp = SerialLamp(device, 115200, 2)
    for word in ("accept", "reject", "ask"):
        lamp.tell(word, {})
    wanted, came = b"ACCEPT\nREJECT\nASK\n", b""  # no carriage return, no echo
    while len(came) < len(wanted):  # a terminal hands on what it has
        came += os.read(controller, 100)
    assert came == wanted
    fd = os.open(device, os.O_RDWR | os.O_NOCTTY)
    _, output, control, local, speed, *_ = termios.tcgetattr(fd)
    os.close(fd)
    assert (output, local, speed) == (0, 0, termios.B115200)
    assert control & termios.CSIZE == termios.CS8
    lamp.close()


def test_a_port_that_takes_nothing_fails_in_time(terminal: tuple[int, Path]) -> None:
    """Nobody reads, so that it is full at some time."""
    lamp = SerialLamp(terminal[1], 9600, 0.2)
    with pytest.raises(LampFailed, match="takes no more bytes"):
        fill(lamp)


def fill(lamp: SerialLamp) -> None:
    for _ in range(10_000):
        lamp.tell("a" * 400, {})


def test_a_port_may_be_pulled_and_put_back() -> None:
    controller, device = os.openpty()
    name = Path(os.ttyname(device))
    lamp = SerialLamp(name, 9600, 1)
    os.close(device)
    os.close(controller)
    with pytest.raises(LampFailed, match="cannot be written"):
        lamp.tell("accept", {})
    again, _device = os.openpty()  # the first free number, as before
    if Path(os.ttyname(_device)) == name:
        lamp.tell("accept", {})
        assert os.read(again, 100) == b"ACCEPT\n"
    lamp.close()
    for fd in (again, _device):
        os.close(fd)


def test_what_is_no_port_is_refused(tmp_path: Path, terminal: tuple[int, Path]) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for path, reason in ((plain, "not a serial port"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=reason):
            SerialLamp(path, 9600, 1)
    with pytest.raises(UsageError, match="--baud 12345 is not a speed") as refused:
        SerialLamp(terminal[1], 12345, 1)
    assert "9600" in str(refused.value.hint)


def test_a_command_gets_the_decision(tmp_path: Path) -> None:
    said = tmp_path / "a file"
    program = "import os, sys; open(sys.argv[1], 'w').write(f'{sys.argv[2:]} {os.environ[\"X\"]}')"
    lamp = ExecLamp(shlex.join([sys.executable, "-c", program, str(said), "--on"]), 10)
    lamp.tell("reject", {"X": "why"})
    assert said.read_text() == "['--on', 'reject'] why"


def test_a_command_that_is_not_there_is_refused_before_the_first_part(tmp_path: Path) -> None:
    script = tmp_path / "lamp.sh"
    script.write_text("#!/bin/sh\n")
    for command in (str(tmp_path / "none"), f"{script} --on", "no-such-program-anywhere"):
        with pytest.raises(UsageError, match="no such program that can be run"):
            ExecLamp(command, 10)
    script.chmod(0o700)
    lamp = ExecLamp(f"{script} --on", 10)
    lamp.tell("accept", {})
    script.unlink()
    with pytest.raises(LampFailed, match="cannot be run"):
        lamp.tell("accept", {})


def test_a_command_that_fails() -> None:
    for command, reason in (
        ("false", "false ended with 1"),
        ("sh -c 'kill -9 $$' x", "ended with -9"),
    ):
        with pytest.raises(LampFailed, match=reason):
            ExecLamp(command, 10).tell("accept", {})
    for command in ("", "'open"):
        with pytest.raises(UsageError, match="--exec"):
            ExecLamp(command, 10)


def test_a_command_that_hangs_and_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of another user, which `sudo` runs."""

    def refuse(group: int, number: int) -> None:
        groups.append(group)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    groups: list[int] = []
    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", refuse)
    program = "import time; time.sleep(60)"
    lamp = ExecLamp(shlex.join([sys.executable, "-c", program]), 0.1)
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it is left to run
        try:
            lamp.tell("accept", {})
        except LampFailed as error:
            said = error.message
        gc.collect()
    assert "did not end within 0.1 s, and cannot be killed" in said
    killpg(groups[0], signal.SIGKILL)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    lamp = ExecLamp(f"sh -c 'sleep 100 & echo $! > {pids}; wait'", 1)
    with pytest.raises(LampFailed, match="did not end within 1 s"):
        lamp.tell("accept", {})
    child = int(pids.read_text())
    wait_until(lambda: has_ended(child))


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
