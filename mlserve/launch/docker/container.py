"""A server in a container: its state, its log, how it is stopped, and how it is found again.

Each container carries its record as a sealed label, so that it is found even if the record file is
lost. The engine keeps the log while the container exists; on removal the end of it becomes the log
file.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlserve import paths
from mlserve.artifact import json_of
from mlserve.errors import MlserveError, UsageError
from mlserve.launch.docker.engine import (
    EngineRefused,
    NoEngine,
    argv,
    docker,
    inspect,
)
from mlserve.launch.logs import log_path, rotate
from mlserve.launch.private_files import create_private, is_sealed
from mlserve.launch.process import OnWait
from mlserve.launch.records import UNREADABLE, ServerRecord

NAME_LABEL = "mlserve.name"
HOME_LABEL = "mlserve.home"
RECORD_LABEL = "mlserve.record"
SEAL_LABEL = "mlserve.seal"
DRAINS_LABEL = "mlserve.drains"
RESTART = "unless-stopped"
"""Restart policy for a container that was ready once: it survives crashes and reboots."""

_LOOK_TIMEOUT = 5.0
_PAUSE = 0.05
_KEPT_LINES = 10_000
_KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container as the engine reports it. `pid` is its first process on the engine's machine."""

    id: str
    is_running: bool
    exit_code: int
    ran_out_of_memory: bool
    was_ready: bool
    pid: int
    labels: dict[str, str]

    @classmethod
    def from_inspect(cls, told: dict[str, Any]) -> ContainerState:
        """Read one element of `docker inspect`'s output."""
        state = told["State"]
        restart = told.get("HostConfig", {}).get("RestartPolicy") or {}
        return cls(
            id=told["Id"],
            is_running=bool(state.get("Running") or state.get("Restarting")),
            exit_code=int(state.get("ExitCode", 0)),
            ran_out_of_memory=bool(state.get("OOMKilled")),
            was_ready=restart.get("Name") == RESTART,
            pid=int(state.get("Pid", 0)),
            labels=told.get("Config", {}).get("Labels") or {},
        )

    @property
    def drains(self) -> bool:
        """Whether the server finishes its requests on SIGTERM."""
        return self.labels.get(DRAINS_LABEL) != "false"

    @property
    def record(self) -> ServerRecord | None:
        """The record in its label; None if it is missing, unreadable, or not ours.

        Anyone can label an image, and a record names files that are read and sent. So only a record
        sealed by this state folder counts.
        """
        try:
            text = self.labels[RECORD_LABEL]
            if not is_sealed(text, self.labels[SEAL_LABEL]):
                return None
            record = ServerRecord.from_json(json_of(text))
        except (OSError, UsageError, *UNREADABLE):
            return None
        return replace(record, container=self.id, pid=self.pid, is_ready=self.was_ready)


class RunningContainer:
    """The container of a recorded server; `mlserve.launch.running` documents the methods."""

    def __init__(self, record: ServerRecord) -> None:
        assert record.container is not None
        self._record = record
        self._id = record.container

    def is_running(self) -> bool:
        try:
            found = look(self._id, _LOOK_TIMEOUT)
        except (NoEngine, EngineRefused):
            return True
        return found is not None and found.is_running

    def uptime(self) -> float:
        """Return the seconds since its first start, by the wall clock."""
        since = datetime.fromisoformat(self._record.started)
        return max(0.0, (datetime.now(UTC) - since).total_seconds())

    @property
    def log_file(self) -> Path | None:
        """None: the engine keeps the log."""
        return None

    def log(self, tail: int | None = None, *, follows: bool = False) -> Iterator[bytes]:
        """Yield stdout and stderr, merged."""
        options = ["--follow"] if follows else []
        options += [] if tail is None else ["--tail", str(tail)]
        command = argv("logs", *options, self._id)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            try:
                while chunk := process.stdout.read1():  # type: ignore[attr-defined]
                    yield chunk
            finally:
                process.kill()

    def last_lines(self, count: int) -> list[str]:
        with suppress(MlserveError):
            return b"".join(self.log(count)).decode(errors="replace").splitlines()
        return []

    @property
    def drains(self) -> bool:
        """Whether the server finishes its requests on SIGTERM, or has none yet."""
        if not self._record.is_ready:
            return True
        found = look(self._id)
        return found is None or found.drains

    def has_clients(self) -> bool | None:
        """Return None: connections are in the container's network or held by the engine's proxy."""
        return None

    def stop(self, timeout: float, on_wait: OnWait | None = None) -> bool:
        """End the container, keep its log, and remove it.

        A container that does not drain is killed at once.
        """
        container = look(self._id)
        if container is None:
            return False
        was_killed = False
        if container.is_running and self._record.is_ready and container.drains:
            was_killed = _end(container, timeout, on_wait)
        elif container.is_running:
            # It has no requests to finish, and a first process without a handler ignores SIGTERM.
            docker("kill", container.id)
        self.discard()
        return was_killed

    def why_killed(self) -> str:
        with suppress(NoEngine, EngineRefused):
            found = look(self._id, _LOOK_TIMEOUT)
            if found is not None and found.ran_out_of_memory:
                return "it ran out of memory: give the container more (--docker-option=--memory=4g)"
        return "was it killed because memory ran out, or by hand?"

    def let_restart(self) -> None:
        """Let the engine restart it after a crash or a reboot.

        A restart policy chosen by the user is left alone.
        """
        options = self._record.serving.docker_options
        if not any(option.startswith(("--restart", "--rm")) for option in options):
            docker("update", "--restart", RESTART, self._id)

    def discard(self) -> None:
        """Save the end of its log as the server's log file, and remove the container.

        Does nothing if the engine is unreachable: the container is found again by its label.
        """
        with suppress(OSError, NoEngine):
            self._keep_log()
        with suppress(EngineRefused, NoEngine):
            docker("rm", "--force", "--volumes", self._id)

    def _keep_log(self) -> None:
        path = log_path(self._record.name)
        rotate(path)
        with create_private(path) as file:
            for chunk in self.log(_KEPT_LINES):
                file.write(chunk)


class ContainerProcess:
    """A container started by this command, with the interface of a process: poll and exit code."""

    def __init__(self, container: str) -> None:
        self._container = container
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return None while it runs, else its exit code (-n for signal n). Raises NoEngine."""
        if self.returncode is None:
            found = look(self._container)
            if found is None:
                self.returncode = -signal.SIGTERM
            elif not found.is_running:
                self.returncode = _as_of_process(found.exit_code)
        return self.returncode

    def wait(self) -> int | None:
        """Return its exit code. It has already ended: the engine has removed it."""
        return self.poll()


def look(container: str, timeout: float = 30.0) -> ContainerState | None:
    """Return the container's state, or None if it is gone. Raises NoEngine, EngineRefused."""
    found = inspect("container", [container], timeout=timeout)
    return ContainerState.from_inspect(found[0]) if found else None


def unrecorded(known: Sequence[ServerRecord]) -> list[ServerRecord]:
    """Return the records of this home's containers that are not among the `known` ones.

    Returns an empty list if the engine cannot be asked.
    """
    recorded = {record.container for record in known}
    try:
        ids = _ids(f"{HOME_LABEL}={paths.state_dir().absolute()}")
        told = inspect("container", [i for i in ids if i not in recorded], timeout=_LOOK_TIMEOUT)
    except (NoEngine, EngineRefused):
        return []
    found = map(ContainerState.from_inspect, told)
    return [record for state in found if (record := state.record) is not None]


def _ids(label: str) -> list[str]:
    listed = docker(
        "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}", timeout=_LOOK_TIMEOUT
    )
    return listed.split()


def _end(container: ContainerState, timeout: float, on_wait: OnWait | None = None) -> bool:
    """End a running container by SIGTERM. True if its time ran out before its work was done."""
    give_up = time.monotonic() + timeout
    seconds = str(math.ceil(timeout))
    with ThreadPoolExecutor(max_workers=1) as pool:
        told = pool.submit(docker, "stop", "-t", seconds, container.id, timeout=timeout + 30)
        while not wait([told], timeout=_PAUSE).done:
            if on_wait is not None:
                on_wait(max(0.0, give_up - time.monotonic()))
        told.result()
    after = look(container.id)
    return after is not None and after.exit_code == _KILLED


def _as_of_process(exit_code: int) -> int:
    """Convert an exit code to a process's form: an engine reports 128 + n for signal n."""
    is_signal = exit_code > 128 and exit_code - 128 in set(signal.Signals)  # noqa: PLR2004
    return 128 - exit_code if is_signal else exit_code
