"""A systemd of a test's own: as the first process of its own namespaces, on a copy of the machine.

The copy is an overlay, so that nothing of the machine is written. The network is the machine's, so
that a test reaches what the units listen on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlserve.testing.processes import wait_until

_SYSTEMD = Path("/lib/systemd/systemd")
_RUNNING = Path("/run/systemd/system")
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p run/units "./$3"
mount --bind "$2" run/units
mount --rbind "$3" "./$3"
mount --make-rshared /
export container=test SYSTEMD_UNIT_PATH=/run/units
exec chroot . /lib/systemd/systemd --system --unit=test.target --log-target=console
"""
_TARGETS = ("test", "sysinit", "basic", "shutdown", "umount")
"""In place of the machine's own, which would start all that it has."""
_TARGET = "[Unit]\nDescription=For a test\nDefaultDependencies=no\n"


@dataclass(frozen=True)
class Systemd:
    """A running systemd, whose units are the files in `units`."""

    pid: int
    units: Path

    def ctl(self, *args: str) -> str:
        """Run `systemctl ARGS`, which must succeed; return what it prints."""
        done = self.attempt(*args)
        assert done.returncode == 0, f"systemctl {' '.join(args)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def attempt(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `systemctl ARGS` to its end, even if it fails."""
        argv = ["nsenter", "--target", str(self.pid), "--all", "--root", "systemctl", *args]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.ctl("show", "--value", f"--property={name}", unit)


def why_no_systemd() -> str:
    """Return why `private_systemd` cannot work here; empty if it can."""
    absent = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "it takes root"
    if absent or not _SYSTEMD.exists():
        return "Debian's package systemd is not installed"
    if _RUNNING.exists():
        return "this machine runs systemd, and two of them must not share the control groups"
    return ""


@contextmanager
def private_systemd(folder: Path, units: Path, shown: Path, log: Path) -> Iterator[Systemd]:
    """Start one with these units, in which the folder `shown` is the machine's own."""
    for name in _TARGETS:
        (units / f"{name}.target").write_text(_TARGET)
    memory = folder / "memory"
    memory.mkdir(parents=True)
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
    argv += ["sh", "-c", _BOOT, "boot", str(memory), str(units), str(shown)]
    with log.open("wb") as output, subprocess.Popen(argv, stdout=output, stderr=output) as outer:
        try:
            pid = wait_until(lambda: _first_process(outer), timeout=20)
            systemd = Systemd(pid, units)
            wait_until(lambda: systemd.attempt("is-active", "test.target").returncode == 0, 20)
            yield systemd
        finally:
            outer.send_signal(signal.SIGKILL)
            outer.wait()
            _remove_control_groups()


def _remove_control_groups() -> None:
    """Remove what systemd has made of control groups, once no process is left in them."""
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")):
        made = [root / "init.scope", root / "system.slice", *root.glob("*.mount")]
        inside = [path for each in made for path in each.rglob("*") if path.is_dir()]
        for group in sorted([*made, *inside], reverse=True):
            with suppress(OSError):
                group.rmdir()


def _first_process(outer: subprocess.Popen[bytes]) -> int | None:
    """Return the process id of systemd once it runs."""
    assert outer.poll() is None, "it does not start here: see its log"
    for child in psutil.Process(outer.pid).children():
        if child.name() == "systemd":
            return child.pid
    return None
