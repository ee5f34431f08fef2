"""The `mlserve` command as a process: run to its end, or started and left to run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mlserve.launch.records import read_records
from mlserve.launch.running import server_of

MLSERVE = (sys.executable, "-m", "mlserve")
FREE_PORTS = ("--grpc-port", "0", "--rest-port", "0")
# What `python -m mlserve` does, and when its first statement ran.
_TIMED = """
import time
began = time.monotonic()
import runpy, sys
print(f"began={began}", file=sys.stderr, flush=True)
runpy.run_module("mlserve", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What a command ended with. `seconds` is None unless its time was taken."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float | None = None

    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Command:
    """Runs `mlserve` in `folder`; `env` is added to the environment."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *args: object, timeout: float = 60, **options: Any) -> Outcome:
        """Runs the command to its end; `options` are those of `Popen`, but `env` is added."""
        process = self.start(*args, **options)
        stdout, stderr = process.communicate(timeout=timeout)
        return Outcome(process.returncode, stdout, stderr)

    def timed(self, *args: object, **options: Any) -> Outcome:
        """The same; `seconds` count from the command's first statement to its end."""
        process = self._popen([sys.executable, "-c", _TIMED, *map(str, args)], **options)
        stdout, stderr = process.communicate(timeout=60)
        ended = time.monotonic()
        began, _, rest = stderr.partition("\n")
        seconds = ended - float(began.removeprefix("began="))
        return Outcome(process.returncode, stdout, rest, seconds)

    def start(self, *args: object, **options: Any) -> subprocess.Popen[str]:
        """The running command, with both outputs as pipes."""
        return self._popen([*MLSERVE, *map(str, args)], **options)

    def json(self, *args: object, code: int = 0) -> Any:
        """What the command prints with `--output json`; it must end with `code`."""
        done = self(*args, "--output", "json")
        assert done.returncode == code, done.stderr
        return done.json()

    def up(self, *args: object) -> Outcome:
        """`mlserve up` of the echo backend at free ports."""
        return self("up", "--backend", "echo", *FREE_PORTS, "--wait", "40", *args)

    def ps(self) -> Any:
        """What `mlserve ps` lists."""
        return self.json("ps")

    def end(self) -> None:
        """Kills what was started here, and every process on record."""
        for process in self.started:
            if process.poll() is None:
                _kill_with_children(process.pid)
        # Before their output is read to its end: a server holds the pipe of a command open.
        for record in read_records(lambda _: None):
            is_ours = record.container is None and server_of(record).is_running()
            if is_ours and _leads_a_session(record.pid):
                os.killpg(record.pid, signal.SIGKILL)
        for process in self.started:
            process.communicate()

    def _popen(
        self, argv: list[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        env = os.environ | {"NO_COLOR": "1"} | self.env | (env or {})
        options = {"cwd": self.folder, "text": True, **streams, **options}
        process = subprocess.Popen(argv, env=env, **options)
        self.started.append(process)
        return process


def _kill_with_children(pid: int) -> None:
    """Ends a command and the servers of a comparison, which are in sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for child in process.children():
            child.kill()
        process.kill()


def _leads_a_session(pid: int) -> bool:
    """Whether `up` started it: a test may have put any other process on record, or this one."""
    return pid != os.getpid() and os.getsid(pid) == pid
