"""Bring a server up: start it or join the one that runs, and wait until it is ready."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve import plugins
from mlserve.activation import FOR_SERVER
from mlserve.backend import Backend, Listen
from mlserve.deadline import check_seconds
from mlserve.errors import (
    ExitCode,
    MlserveError,
    ModelLoadFailed,
    PluginError,
    Unavailable,
)
from mlserve.launch import ports
from mlserve.launch.access import name_to_expect
from mlserve.launch.command import Process, spawn
from mlserve.launch.launchers import command_of, launcher_for, traits_of
from mlserve.launch.logs import last_words, log_path
from mlserve.launch.process import created
from mlserve.launch.ready import mark_ready, wait_until_ready
from mlserve.launch.records import ServerRecord, Tell, remove_record, state_lock, write_record
from mlserve.launch.running import drop_dead, server_of
from mlserve.launch.same_settings import require_same_settings
from mlserve.launch.signals import Interrupts
from mlserve.launcher import Traits
from mlserve.model_choice import by_number, require_whole
from mlserve.serving import Serving
from mlserve.settings import AUTO, DOCKER, GRPC_PORT, REST_PORT
from mlserve.system import signal_name

if TYPE_CHECKING:
    from mlserve.launch.docker.container import ContainerProcess

_STARTS = 3
_STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class UpRequest:
    """What to bring up and how, already checked by `request_up`.

    `wanted` is the requested launcher, `launcher` the one to use (not `auto`). `wait` is the
    seconds until the server must be ready.
    """

    serving: Serving
    ports: ports.PortRequest
    wanted: str
    launcher: str
    wait: float

    @property
    def backend(self) -> Backend:
        """The backend of a server of one model."""
        return plugins.backend(self.serving.only.backend)

    @property
    def traits(self) -> Traits:
        """What servers of this launcher do."""
        return traits_of(self.launcher)


def request_up(
    serving: Serving,
    where: ports.PortRequest,
    launcher: str = AUTO,
    wait: float = 120.0,
) -> UpRequest:
    """Make a request, and report whatever is missing before anything starts.

    Raises PluginError for a missing runtime, NotFound for an unknown launcher, and UsageError for
    what the backend or the launcher does not support, and for a `wait` that is not a number of
    seconds.
    """
    check_seconds("--wait", wait)
    backends = [plugins.backend(model.backend) for model in serving.models]
    chosen = launcher_for(backends, serving, launcher)
    if not traits_of(chosen).follows_pin:
        serving = replace(serving, models=tuple(map(by_number, serving.models)))
    return UpRequest(serving, where, launcher, chosen, wait)


@dataclass(frozen=True, slots=True)
class Up:
    """A ready server. `was_running`: it had been started before."""

    record: ServerRecord
    was_running: bool


def up(request: UpRequest, tell: Tell) -> Up:
    """Return a server that is ready to answer.

    Joins one that already runs with these settings. One that does not get ready is stopped again,
    also when the user interrupts. Raises UsageError for other settings or a taken port, Unavailable
    if it does not get ready.
    """
    if request.launcher == DOCKER:
        request = _with_image(request, tell)
    give_up = time.monotonic() + request.wait
    with Interrupts.watched() as interrupts:
        return _bring_up(request, give_up, interrupts, tell, _STARTS)


def _with_image(request: UpRequest, tell: Tell) -> UpRequest:
    """Make sure the image exists, which may take minutes, and return the request it can serve."""
    from mlserve.launch.docker import images

    images.require_regarded(request.backend, request.serving)
    serving = images.pinned(request.backend, request.serving)
    images.ensure_image(request.backend, serving, tell)
    return replace(request, serving=serving)


def _bring_up(
    request: UpRequest, give_up: float, interrupts: Interrupts, tell: Tell, starts: int
) -> Up:
    server: LaunchedServer | None = None
    try:
        with state_lock(give_up - time.monotonic()), interrupts.held():
            server = start_or_join(request, log_path(request.serving.name), tell)
        with interrupts.held():
            # Slow to import, so import it while the server starts. An interrupt that breaks off an
            # import can make Python die of SIGINT instead of exiting with our code.
            import_module("mlserve.client")
        return _wait(server, request, give_up)
    except BaseException as error:
        if server is not None:
            with interrupts.held():
                server.abandon()
            if isinstance(error, MlserveError) and starts > 1 and _lost_its_ports(server, request):
                tell(f"another process took a port of {server.record.name}: starting it again")
                return _bring_up(request, give_up, interrupts, tell, starts - 1)
        raise


def _wait(server: LaunchedServer, request: UpRequest, give_up: float) -> Up:
    try:
        wait_until_ready(server.record, request.serving, give_up, server.require_alive)
    except MlserveError as error:
        if server.has_ended:
            raise
        raise with_log(error, server.record) from error
    return Up(mark_ready(server.record), server.is_joined)


def _lost_its_ports(server: LaunchedServer, request: UpRequest) -> bool:
    """Return whether it ended because another process took one of its default ports first."""
    listen = server.record.listen
    return (
        server.has_ended
        and not request.ports.is_fixed
        and not all(ports.is_free(listen.host, p) for p in (listen.grpc_port, listen.rest_port))
    )


@dataclass(slots=True)
class LaunchedServer:
    """A starting or running server. `process` is None if another command started it."""

    record: ServerRecord
    process: Process | ContainerProcess | None

    def require_alive(self) -> None:
        """Raise Unavailable, with the last lines of the log, if the process is gone."""
        if self.process is None:
            if not server_of(self.record).is_running():
                raise stopped(self.record, None)
        elif (code := self.process.poll()) is not None:
            raise stopped(self.record, code)

    @property
    def is_joined(self) -> bool:
        """Whether another command started it, so that we must not stop it."""
        return self.process is None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself; another command's process is looked up."""
        if self.process is None:
            return not server_of(self.record).is_running()
        return self.process.returncode is not None

    def abandon(self) -> None:
        """Stop the process and drop its record, unless another command started it."""
        if self.process is None:
            return
        self.stop()
        with suppress(MlserveError), state_lock():
            remove_record(self.record)

    def stop(self) -> None:
        """Stop the process that this command started."""
        server_of(self.record).stop(max(_STOP_TIMEOUT, self.record.traits.end_seconds))
        if self.process is not None:
            self.process.wait()


def start_or_join(request: UpRequest, log: Path | None, tell: Tell) -> LaunchedServer:
    """Return the server of that name: one that runs with these settings, or a new one.

    The caller holds the state lock. A new server is recorded as not ready. Raises UsageError if one
    runs with other settings or a port is taken, PluginError if something is missing.
    """
    others = drop_dead()
    running = next((r for r in others if r.name == request.serving.name), None)
    if running is not None:
        running.require_staying()
        require_same_settings(request.serving, request.ports, request.wanted, running)
        return LaunchedServer(running, None)
    reserved = {port for r in others for port in (r.listen.grpc_port, r.listen.rest_port)}
    listen = ports.choose(request.ports, reserved)
    _tell_of_moved_ports(request.ports, listen, tell)
    server = start(request, listen, log, tell)
    try:
        write_record(server.record)
    except BaseException:
        server.stop()
        raise
    return server


def start(request: UpRequest, listen: Listen, log: Path | None, tell: Tell) -> LaunchedServer:
    """Start a server process on those ports, without a record: `mlserve ps` does not list it.

    Raises PluginError if something is missing, ModelLoadFailed if a file of a version that a
    third-party server is to load is not as exported: mlserve's own server checks that itself.
    """
    if not request.traits.is_own:
        for model in request.serving.models:
            require_whole(model)
    if request.launcher == DOCKER:
        return _start_container(request, listen, log)
    serving = request.serving
    planned = command_of(request.launcher, serving, listen)
    if passed := request.ports.passed:
        env = {**planned.env, FOR_SERVER: passed.in_words()}
        planned = replace(planned, env=env, descriptors=passed.descriptors)
    if planned.listens_everywhere and listen.host not in ("0.0.0.0", "::"):
        tell(
            f"warning: {Path(planned.argv[0]).name} listens on every address of this machine, "
            f"not only on {listen.host}; --launcher embedded does not"
        )
    if not planned.follows_versions and not serving.only.versions.versions:
        tell(
            f"warning: {Path(planned.argv[0]).name} serves the latest version and does not follow "
            "newer ones: after the next export, restart it with mlserve down and mlserve up"
        )
    if request.traits.is_own:
        for risk in serving.settings.exposure(listen.host):
            tell(f"warning: {risk}")
    record = _record(request, listen, log)  # before the start: if it fails, no process is lost
    process = spawn(planned, serving.name, log)
    since = created(process.pid)
    return LaunchedServer(replace(record, pid=process.pid, pid_created=since), process)


def _start_container(request: UpRequest, listen: Listen, log: Path | None) -> LaunchedServer:
    from mlserve.launch.docker.container import ContainerProcess
    from mlserve.launch.docker.run import run_container

    record = run_container(request.backend, _record(request, listen, log))
    return LaunchedServer(record, ContainerProcess(record.container or ""))


def _record(request: UpRequest, listen: Listen, log: Path | None) -> ServerRecord:
    """Return the record of a server about to start: its process or container is not known yet."""
    record = ServerRecord(
        name=request.serving.name,
        serving=request.serving,
        launcher=request.launcher,
        listen=listen,
        pid=0,
        pid_created=0.0,
        log=log and log.absolute(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        is_ready=False,
        up_pid=os.getpid(),
        up_created=created(os.getpid()),
        traits=request.traits,
    )
    name = name_to_expect(request.serving.settings, record.reachable_host)
    return replace(record, tls_server_name=name)


def _tell_of_moved_ports(asked: ports.PortRequest, listen: Listen, tell: Tell) -> None:
    moved = []
    if asked.grpc is None and listen.grpc_port != GRPC_PORT:
        moved.append(f"gRPC on {listen.grpc_port}")
    if asked.rest is None and listen.rest_port != REST_PORT:
        moved.append(f"REST on {listen.rest_port}")
    if moved:
        tell(f"a default port is taken: {', '.join(moved)} instead")


_SHOWN = 15
_SEARCHED = 200
"""Log lines shown, and log lines searched for the reason."""
_BY_EXIT_CODE: dict[int, type[MlserveError]] = {
    ExitCode.UNAVAILABLE: ModelLoadFailed,
    ExitCode.PLUGIN: PluginError,
}


def stopped(record: ServerRecord, exit_code: int | None) -> MlserveError:
    """Return the error for a process that ended during its start; None: exit code unknown.

    The message includes the last error in the server's log, if any, and takes over its hint.
    """
    kind = Unavailable if exit_code is None else _BY_EXIT_CODE.get(exit_code, Unavailable)
    message = f"{record.name} stopped while it was starting{_how(exit_code)}"
    if exit_code == -signal.SIGKILL:
        return with_log(kind(message, hint=server_of(record).why_killed()), record)
    said = last_words(server_of(record).last_lines(_SEARCHED))
    if said is None:
        return with_log(kind(message), record)
    return with_log(kind(f"{message}: {said.message}", hint=said.hint), record)


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    if exit_code < 0:
        return f" (ended by {signal_name(-exit_code)})"
    return f" (exit code {exit_code})"


def with_log(error: MlserveError, record: ServerRecord) -> MlserveError:
    """Return the same error, with the last lines of the server's log as its detail `log`."""
    server = server_of(record)
    lines = server.last_lines(_SHOWN)
    if lines:
        path = None if server.log_file is None else str(server.log_file)
        command = f"mlserve logs {record.name}"
        error.details["log"] = {"path": path, "command": command, "end": lines}
    elif error.hint is None and record.log is None:
        error.hint = "its log is above"
    return error
