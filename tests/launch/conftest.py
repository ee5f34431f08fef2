"""Servers of the test backend `echo`, started by real commands and stopped at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlserve.launch.records import read_records
from mlserve.launch.running import server_of

FREE_PORTS = ("--grpc-port", "0", "--rest-port", "0")


@dataclass
class Cli:
    """Runs `mlserve` as a process; `env` is added to the environment."""

    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*args),
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The running command, with both outputs as pipes."""
        process = subprocess.Popen(
            self.argv(*args),
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def up(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`mlserve up` of the echo backend at free ports."""
        return self("up", "--backend", "echo", *FREE_PORTS, "--wait", "40", *args)

    def ps(self) -> list[dict[str, Any]]:
        """What `mlserve ps` lists."""
        done = self("ps", "--output", "json")
        assert done.returncode == 0, done.stderr
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    @staticmethod
    def argv(*args: str) -> list[str]:
        return [sys.executable, "-m", "mlserve", *args]


@pytest.fixture
def cli(home: Path) -> Iterator[Cli]:
    """The command line. Every process that it or its servers started is gone after the test."""
    command = Cli()
    yield command
    for process in command.started:
        process.kill()
    # Before their output is read to its end: a server holds the pipe of a command open.
    for record in read_records(lambda _: None):
        if server_of(record).is_running():
            os.killpg(record.pid, signal.SIGKILL)
    for process in command.started:
        process.communicate()
