"""Starts a server process and records it, or finds the one that already runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mlserve import plugins
from mlserve.backend import Backend, Listen
from mlserve.deadline import check_seconds
from mlserve.errors import MlserveError, UsageError
from mlserve.launch import ports
from mlserve.launch.command import command, launcher_for
from mlserve.launch.docker.containers import ContainerProcess
from mlserve.launch.failures import stopped
from mlserve.launch.launcher import Launcher
from mlserve.launch.lock import state_lock
from mlserve.launch.plan import Serving
from mlserve.launch.processes import created, drop_dead, is_running, stop
from mlserve.launch.spawn import Process, spawn
from mlserve.launch.state import ServerRecord, remove_record, write_record

Tell = Callable[[str], None]
"""Called with a line that the user should read."""

_STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class UpRequest:
    """What to bring up and how. `wait` is the seconds until it must be ready.

    Raises UsageError for a `wait` that is not a number of seconds.
    """

    serving: Serving
    ports: ports.PortRequest
    launcher: Launcher = Launcher.AUTO
    wait: float = 120.0

    def __post_init__(self) -> None:
        check_seconds("--wait", self.wait)


@dataclass(slots=True)
class Server:
    """A server that is starting or runs. `process` is None when another command started it."""

    record: ServerRecord
    process: Process | ContainerProcess | None

    def require_alive(self) -> None:
        """Raises Unavailable, with the last lines of the log, when the process is gone."""
        if self.process is None:
            if not is_running(self.record):
                raise stopped(self.record, None)
        elif (code := self.process.poll()) is not None:
            raise stopped(self.record, code)

    @property
    def is_joined(self) -> bool:
        """Whether another command started it, so that it is not ours to stop."""
        return self.process is None

    @property
    def has_ended(self) -> bool:
        """Whether the process that we started was seen to end by itself."""
        return self.process is not None and self.process.returncode is not None

    def abandon(self) -> None:
        """Stops the process and drops its record, unless another command started it."""
        if self.process is None:
            return
        stop(self.record, _STOP_TIMEOUT)
        self.process.wait()
        with suppress(MlserveError), state_lock():
            remove_record(self.record)


def start_or_join(request: UpRequest, log: Path | None, tell: Tell) -> Server:
    """The server of that name: the one that runs with these settings, or a new one.

    For a caller that holds the state lock. A new one is recorded as not ready. Raises UsageError
    when one runs with other settings or a port is taken, PluginError when something is missing.
    """
    others = drop_dead()
    running = next((r for r in others if r.name == request.serving.name), None)
    if running is not None:
        running.require_staying()
        require_same_settings(request, running)
        return Server(running, None)
    reserved = {port for other in others for port in (other.grpc_port, other.rest_port)}
    listen = ports.choose(request.ports, reserved)
    _tell_of_moved_ports(request.ports, listen, tell)
    server = start(request, listen, log, tell)
    try:
        write_record(server.record)
    except BaseException:
        stop(server.record, _STOP_TIMEOUT)
        if server.process is not None:
            server.process.wait()
        raise
    return server


def require_same_settings(request: UpRequest, running: ServerRecord) -> None:
    """Raises UsageError when that server does not serve what is asked for, as it is asked for."""
    asked = request.ports
    is_same = (
        request.serving.is_served_by(running)
        and asked.host == running.host
        and (not asked.grpc or asked.grpc == running.grpc_port)
        and (not asked.rest or asked.rest == running.rest_port)
        and request.launcher in (Launcher.AUTO, running.launcher)
    )
    if not is_same:
        raise UsageError(
            f"{running.name} is already running with other settings: {_settings(running)}",
            hint=f"leave out what differs, or stop it first: mlserve down {running.name}",
        )


def start(request: UpRequest, listen: Listen, log: Path | None, tell: Tell) -> Server:
    """A new server process at those ports, not recorded: `mlserve ps` does not know it.

    Raises PluginError when something is missing.
    """
    serving = request.serving
    backend = plugins.backend(serving.backend)
    launcher = launcher_for(backend, serving, request.launcher)
    if launcher is Launcher.DOCKER:
        return _start_container(backend, serving, listen, log)
    planned = command(backend, serving, launcher, listen)
    if planned.listens_everywhere and listen.host not in ("0.0.0.0", "::"):
        tell(
            f"warning: {Path(planned.argv[0]).name} listens on every address of this machine, "
            f"not only on {listen.host}; --launcher embedded does not"
        )
    for risk in serving.settings.exposure(listen.host) if launcher is Launcher.EMBEDDED else ():
        tell(f"warning: {risk}")
    process = spawn(planned, serving.name, log)
    since = created(process.pid)
    record = _record(serving, launcher, listen, log)
    return Server(replace(record, pid=process.pid, pid_created=since), process)


def _start_container(
    backend: Backend, serving: Serving, listen: Listen, log: Path | None
) -> Server:
    from mlserve.launch.docker.run import run_container

    draft = _record(serving, Launcher.DOCKER, listen, log)
    record = run_container(backend, serving, draft)
    return Server(record, ContainerProcess(record.container or ""))


def _record(serving: Serving, launcher: Launcher, listen: Listen, log: Path | None) -> ServerRecord:
    """The record of a server that is about to start: without what it is on its machine."""
    return ServerRecord(
        name=serving.name,
        backend=serving.backend,
        model=serving.model,
        versions=serving.versions.numbers,
        base_path=serving.base_path,
        launcher=launcher.value,
        pid=0,
        pid_created=0.0,
        host=listen.host,
        grpc_port=listen.grpc_port,
        rest_port=listen.rest_port,
        log=log and log.absolute(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        has_random_weights=serving.has_random_weights,
        is_ready=False,
        up_pid=os.getpid(),
        up_created=created(os.getpid()),
        all_versions=serving.versions.are_all,
        threads=serving.threads,
        provider=serving.provider,
        instances=serving.instances,
        settings=serving.settings,
        docker_options=serving.docker_options,
    )


def _tell_of_moved_ports(asked: ports.PortRequest, listen: Listen, tell: Tell) -> None:
    moved = []
    if asked.grpc is None and listen.grpc_port != ports.GRPC_PORT:
        moved.append(f"gRPC on {listen.grpc_port}")
    if asked.rest is None and listen.rest_port != ports.REST_PORT:
        moved.append(f"REST on {listen.rest_port}")
    if moved:
        tell(f"a default port is taken: {', '.join(moved)} instead")


def _settings(record: ServerRecord) -> str:
    numbers = ", ".join(str(version) for version in record.versions)
    versions = f"version {numbers}" if numbers else "the latest version"
    options = "".join(
        f", --{name} {value}"
        for name in ("threads", "provider", "instances")
        if (value := getattr(record, name)) is not None
    )
    options += "".join(f", {flag}" for flag in (*record.settings.argv(), *record.docker_options))
    options += f", image {record.image}" if record.image else ""
    return (
        f"{'all versions' if record.all_versions else versions} of {record.base_path} on "
        f"{record.host}, gRPC {record.grpc_port}, REST {record.rest_port}, "
        f"{record.launcher}{options}"
    )
