"""Run the `mlserve` command as a process: to its end, or in the background."""

from __future__ import annotations

import json
import os
import resource
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
# A busy machine may stand still for longer than the default of 5 s.
_ENVIRONMENT = {"NO_COLOR": "1", "MLSERVE_TIMEOUT": "60"}
# Does what `python -m mlserve` does, and records when its first statement ran.
_TIMED = """
import time
began = time.monotonic()
import runpy, sys
print(f"began={began}", file=sys.stderr, flush=True)
runpy.run_module("mlserve", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Outcome:
    """The result of a command. `seconds` is None unless it was timed."""

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
        """Run the command to its end.

        `options` are those of `Popen`, but `env` is added; `file_limit` is the most bytes that a
        file may get, and how far that may be raised (RLIMIT_FSIZE).
        """
        process = self.start(*args, **options)
        stdout, stderr = process.communicate(timeout=timeout)
        return Outcome(process.returncode, stdout, stderr)

    def timed(self, *args: object, **options: Any) -> Outcome:
        """Like `__call__`; `seconds` count from the command's first statement to its end."""
        process = self._popen([sys.executable, "-c", _TIMED, *map(str, args)], **options)
        stdout, stderr = process.communicate(timeout=60)
        ended = time.monotonic()
        began, _, rest = stderr.partition("\n")
        seconds = ended - float(began.removeprefix("began="))
        return Outcome(process.returncode, stdout, rest, seconds)

    def start(self, *args: object, **options: Any) -> subprocess.Popen[str]:
        """Start the command, with pipes for both outputs."""
        return self._popen([*MLSERVE, *map(str, args)], **options)

    def json(self, *args: object, code: int = 0) -> Any:
        """Return the parsed output of `--output json`; the command must end with `code`."""
        done = self(*args, "--output", "json")
        assert done.returncode == code, done.stderr
        return done.json()

    def up(self, *args: object) -> Outcome:
        """Run `mlserve up` with the echo backend on free ports."""
        return self("up", "--backend", "echo", *FREE_PORTS, "--wait", "40", *args)

    def ps(self) -> Any:
        """Return the output of `mlserve ps`."""
        return self.json("ps")

    def end(self) -> None:
        """Kill the processes started here, and every process on record."""
        for process in self.started:
            if process.poll() is None:
                _kill_with_children(process.pid)
        # Kill before reading the output: a server holds its command's pipe open.
        for record in read_records(lambda _: None):
            is_ours = record.container is None and server_of(record).is_running()
            if is_ours and _leads_a_session(record.pid):
                os.killpg(record.pid, signal.SIGKILL)
        for process in self.started:
            process.communicate()

    def _popen(
        self,
        argv: list[str],
        env: Mapping[str, str] | None = None,
        file_limit: tuple[int, int] | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        env = os.environ | _ENVIRONMENT | self.env | (env or {})
        options = {"cwd": self.folder, "text": True, **streams, **options}
        process = subprocess.Popen(argv, env=env, **options)
        if file_limit is not None:
            # From outside: a `preexec_fn` forks, and gRPC's threads in the child may then end it
            # before it becomes the command (https://github.com/grpc/grpc/pull/43157).
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, file_limit)
        self.started.append(process)
        return process


def _kill_with_children(pid: int) -> None:
    """Kill a command and the servers of a comparison, which have sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for child in process.children():
            child.kill()
        process.kill()


def _leads_a_session(pid: int) -> bool:
    """Return whether `up` started it: tests also record other processes, even this one."""
    return pid != os.getpid() and os.getsid(pid) == pid
