"""The gate on a camera's folder: killed at any point, each file has one line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlserve.gate.audit_file import family
from mlserve.gate.verify import verify
from mlserve.testing.processes import wait_until
from tests.harness.echo import PHOTO
from tests.harness.gate import ACCEPT, decisions, to

KILLER = """
import os, runpy, signal, sys
point, nth = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
import mlserve.cli.gate as command
from mlserve.gate import audit_file

seen = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def write(self, data, real=audit_file.AuditFile._write):
    global seen
    seen += 1
    is_now = seen == nth
    if is_now and point == "before":
        die()
    if is_now and point == "torn":
        os.write(self._fd, data[: len(data) // 2])
        die()
    real(self, data)
    if is_now and point == "written":
        die()

def show(self, decided, gate, real=command.Shown.__call__):
    real(self, decided, gate)
    if seen >= nth and point == "shown":
        die()

def opened(path, real=audit_file._opened):
    if point == "renamed" and audit_file.full_files(path) and not path.exists():
        die()
    return real(path)

audit_file.AuditFile._write = write
audit_file._opened = opened
command.Shown.__call__ = show
runpy.run_module("mlserve", run_name="__main__", alter_sys=True)
"""


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Stop a gate; return the names of the files that it has shown decisions for."""
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return names(stdout)


def names(stdout: str) -> list[str]:
    return [Path(line.split("\t")[1]).name for line in stdout.splitlines()]


@pytest.mark.parametrize("point", ["before", "torn", "written", "shown", "renamed"])
def test_killed_at_any_point_each_file_has_one_line(
    cli: Any, server: Any, part: Any, audit: Path, tmp_path: Path, point: str
) -> None:
    camera = tmp_path / "camera"
    files = [part("ok" if number % 2 else "hole", into=camera).name for number in range(6)]
    small = ("--rotate-bytes", "2000") if point == "renamed" else ()
    args = ["gate", "--watch", str(camera), *ACCEPT, *to(server, audit), *small]
    killed = cli._popen([sys.executable, "-c", KILLER, point, "3", *args])
    stdout, stderr = killed.communicate(timeout=40)
    assert killed.returncode == -signal.SIGKILL, stderr
    shown = names(stdout)
    with_line = [Path(line["image"]["name"]).name for line in decisions(audit)]
    # No decision without its line.
    assert shown == with_line[: len(shown)] == files[: len(shown)]
    assert (verify(family(audit)).torn is not None) is (point == "torn")

    again = cli.start(*args)
    files.append(part("ok", into=camera).name)
    wait_until(lambda: len(decisions(audit)) == 7)
    shown += ended(again)
    # No line twice, and in order; what had its line is not told again.
    assert [Path(line["image"]["name"]).name for line in decisions(audit)] == files
    assert shown == [name for name in files if name in shown]
    assert len(shown) >= 6
    assert verify(family(audit)).mended == (1 if point == "torn" else 0)


def test_the_folder_of_a_camera(
    cli: Any, server: Any, part: Any, audit: Path, tmp_path: Path
) -> None:
    camera = tmp_path / "camera"
    there = [part(into=camera).name for _ in range(2)]
    process = cli.start("gate", "--watch", camera, *ACCEPT, *to(server, audit))
    wait_until(lambda: len(decisions(audit)) == 2)
    slow = (camera / "slow.jpg").open("wb")
    slow.write(PHOTO)
    slow.flush()
    come = [part("hole", into=camera).name for _ in range(3)]
    wait_until(lambda: len(decisions(audit)) == 5)
    second = cli("gate", "--watch", camera, *ACCEPT, *to(server, audit))
    assert second.returncode == 2
    assert "another gate watches" in second.stderr
    slow.write(b" says ok 0.99")
    slow.close()
    wait_until(lambda: len(decisions(audit)) == 6)
    assert ended(process) == [*there, *come, "slow.jpg"]
    last = decisions(audit)[-1]
    assert (last["decision"], last["image"]["bytes"]) == ("accept", len(PHOTO) + 13)
    assert last["waited_ms"] >= 0
    # After a restart, nothing is decided again, but what is new is.
    process = cli.start("gate", "--watch", camera, *ACCEPT, *to(server, audit))
    new = part(into=camera).name
    wait_until(lambda: len(decisions(audit)) == 7)
    assert ended(process) == [new]
