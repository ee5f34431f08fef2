"""The containers behind the records: which of them run, and how they are stopped and found again.

Each carries its record as a label, sealed, so that it is found when the record is lost. Its log is
the engine's as long as it is there; what it leaves is kept as a log file when it is removed.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from mlserve import paths
from mlserve.artifact import json_of
from mlserve.errors import MlserveError, UsageError
from mlserve.launch.docker.engine import (
    EngineRefused,
    NoEngine,
    argv,
    docker,
    inspect,
    is_installed,
)
from mlserve.launch.logs import log_path, rotate
from mlserve.launch.private_files import create_private, is_sealed
from mlserve.launch.records import ServerRecord

NAME_LABEL = "mlserve.name"
HOME_LABEL = "mlserve.home"
RECORD_LABEL = "mlserve.record"
SEAL_LABEL = "mlserve.seal"
DRAINS_LABEL = "mlserve.drains"
RESTART = "unless-stopped"
"""What the engine does with a container that was ready once: it outlives a crash and a reboot."""

_LOOK_TIMEOUT = 5.0
_PAUSE = 0.05
_KEPT_LINES = 10_000
_KILLED = 128 + signal.SIGKILL
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine sees it now. `pid` is its first process on the engine's machine."""

    id: str
    is_running: bool
    exit_code: int
    ran_out_of_memory: bool
    was_ready: bool
    pid: int
    labels: dict[str, str]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Container:
        """What `docker inspect` tells of it."""
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
        """Whether its server finishes its requests on SIGTERM."""
        return self.labels.get(DRAINS_LABEL) != "false"

    @property
    def record(self) -> ServerRecord | None:
        """The record in its label; None when it has none that can be read, or one that is not ours.

        Anybody can put labels on an image. A record names files that are read and sent, so only one
        with the seal of this state folder counts.
        """
        try:
            text = self.labels[RECORD_LABEL]
            if not is_sealed(text, self.labels[SEAL_LABEL]):
                return None
            record = ServerRecord.from_json(json_of(text))
        except (OSError, UsageError, *_UNREADABLE):
            return None
        return replace(record, container=self.id, pid=self.pid, is_ready=self.was_ready)


class ContainerProcess:
    """A container that this command started, as a process: polled, with an exit code at its end."""

    def __init__(self, container: str) -> None:
        self._container = container
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """None while it runs; else its exit code, -n when signal n ended it. Raises NoEngine."""
        if self.returncode is None:
            found = look(self._container)
            if found is None:
                self.returncode = -signal.SIGTERM
            elif not found.is_running:
                self.returncode = _as_of_process(found.exit_code)
        return self.returncode

    def wait(self) -> int | None:
        """Its exit code. It has ended: the engine has removed it."""
        return self.poll()


def look(container: str, timeout: float = 30.0) -> Container | None:
    """The container of that id now; None when it is gone. Raises NoEngine, EngineRefused."""
    found = inspect("container", [container], timeout=timeout)
    return Container.of(found[0]) if found else None


def is_running(container: str) -> bool:
    """Whether it runs. One whose engine cannot be asked counts as running."""
    try:
        found = look(container, _LOOK_TIMEOUT)
    except (NoEngine, EngineRefused):
        return True
    return found is not None and found.is_running


def ran_out_of_memory(container: str) -> bool:
    """Whether the system killed it for want of memory, as far as the engine can be asked."""
    with suppress(NoEngine, EngineRefused):
        found = look(container, _LOOK_TIMEOUT)
        return found is not None and found.ran_out_of_memory
    return False


def unrecorded(known: Sequence[ServerRecord]) -> list[ServerRecord]:
    """The records of the containers of this home that are not among the `known` ones.

    None when no engine can be asked.
    """
    if not is_installed():
        return []
    recorded = {record.container for record in known}
    try:
        ids = _ids(f"{HOME_LABEL}={paths.state_dir().absolute()}")
        told = inspect("container", [i for i in ids if i not in recorded], timeout=_LOOK_TIMEOUT)
    except (NoEngine, EngineRefused):
        return []
    return [record for item in told if (record := Container.of(item).record) is not None]


def drains(container: str) -> bool:
    """Whether its server finishes its requests on SIGTERM. Raises NoEngine, EngineRefused."""
    found = look(container)
    return found is None or found.drains


def local_pid(container: str) -> int | None:
    """The first process of a container as one of this machine; None when it cannot be seen here.

    An engine elsewhere, or in a virtual machine, has process ids of its own. Raises
    psutil.NoSuchProcess when the container runs no more, NoEngine and EngineRefused.
    """
    found = look(container)
    if found is None or not found.pid:
        raise psutil.NoSuchProcess(0)
    try:
        cgroups = Path(f"/proc/{found.pid}/cgroup").read_text()
    except OSError:
        return None
    return found.pid if found.id in cgroups else None


class EngineClock:
    """The seconds of CPU time that a container has used since this was made, told by its engine.

    The engine gives the share of a CPU over the last second or two, which one call takes.
    """

    def __init__(self, container: str) -> None:
        self._container = container
        self._used = 0.0
        self._last = time.monotonic()

    def __call__(self) -> float:
        """Raises NoEngine, EngineRefused, and psutil.NoSuchProcess when it runs no more."""
        told = docker("stats", "--no-stream", "--format", "{{.CPUPerc}}", self._container)
        share = told.strip().rstrip("%")
        if not share.replace(".", "", 1).isdigit():
            raise psutil.NoSuchProcess(0)
        last, self._last = self._last, time.monotonic()
        self._used += float(share) / 100 * (self._last - last)
        return self._used


def stop(
    record: ServerRecord, timeout: float, on_wait: Callable[[float], None] | None = None
) -> bool:
    """Ends a container, keeps its log, and removes it: True when it had to be killed.

    One that drains gets `timeout` seconds for the requests that it has begun, and `on_wait` is
    called with those that are left; any other is killed at once. Raises NoEngine, EngineRefused.
    """
    container = look(record.container or "")
    if container is None:
        return False
    was_killed = False
    if container.is_running and record.is_ready and container.drains:
        was_killed = _end(container, timeout, on_wait)
    elif container.is_running:
        # It has no requests, and a first process that has not asked for SIGTERM ignores it.
        docker("kill", container.id)
    collect(record)
    return was_killed


def collect(record: ServerRecord) -> None:
    """Keeps the end of a container's log as the server's log file, and removes the container.

    An engine that cannot be asked changes nothing: the container is found again by its label.
    """
    if record.container is None:
        return
    with suppress(OSError, NoEngine):
        _keep_log(record.container, record.name)
    with suppress(EngineRefused, NoEngine):
        docker("rm", "--force", "--volumes", record.container)


def let_restart(record: ServerRecord) -> None:
    """Lets the engine start a ready server again after a crash or a reboot.

    Not where the user has said what to do then. Raises NoEngine, EngineRefused.
    """
    is_settled = any(option.startswith(("--restart", "--rm")) for option in record.docker_options)
    if record.container is not None and not is_settled:
        docker("update", "--restart", RESTART, record.container)


def last_lines(container: str, count: int) -> list[str]:
    """The last lines of a container's log; none when it cannot be read."""
    with suppress(MlserveError):
        return b"".join(log(container, count)).decode(errors="replace").splitlines()
    return []


def log(container: str, tail: int | None = None, *, follows: bool = False) -> Iterator[bytes]:
    """A container's log, both its outputs in one, from its last `tail` lines on.

    With `follows` it goes on until the container ends. Raises NoEngine.
    """
    options = ["--follow"] if follows else []
    options += [] if tail is None else ["--tail", str(tail)]
    command = argv("logs", *options, container)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read1():  # type: ignore[attr-defined]
                yield chunk
        finally:
            process.kill()


def _ids(label: str) -> list[str]:
    listed = docker(
        "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}", timeout=_LOOK_TIMEOUT
    )
    return listed.split()


def _end(
    container: Container, timeout: float, on_wait: Callable[[float], None] | None = None
) -> bool:
    """Ends a running container by SIGTERM. True when its time was over before its work was."""
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


def _keep_log(container: str, name: str) -> None:
    path = log_path(name)
    rotate(path)
    with create_private(path) as file:
        for chunk in log(container, _KEPT_LINES):
            file.write(chunk)


def _as_of_process(exit_code: int) -> int:
    """The exit code as a process of ours has it: an engine says 128 + n for signal n."""
    is_signal = exit_code > 128 and exit_code - 128 in set(signal.Signals)  # noqa: PLR2004
    return 128 - exit_code if is_signal else exit_code
