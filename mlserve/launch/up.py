"""Brings a server up in the background, and returns when it is ready."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from mlserve import plugins
from mlserve.backend import Backend, Listen
from mlserve.deadline import check_seconds
from mlserve.errors import (
    DeadlineExceeded,
    ExitCode,
    MlserveError,
    ModelLoadFailed,
    NotFound,
    PluginError,
    Unavailable,
    UsageError,
)
from mlserve.launch import ports
from mlserve.launch.command import Process, command, launcher_for, spawn
from mlserve.launch.docker import container
from mlserve.launch.docker.container import ContainerProcess
from mlserve.launch.logs import last_lines, last_words, log_path
from mlserve.launch.process import created, drop_dead, is_process, is_running, stop
from mlserve.launch.ready import answers, wait_until_ready
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    state_lock,
    write_record,
)
from mlserve.launch.serving import Launcher, Serving
from mlserve.launch.signals import Interrupts

_SHOWN = 15
_SEARCHED = 200
"""How many lines are shown, and in how many the reason is looked for."""
_BY_EXIT_CODE: dict[int, type[MlserveError]] = {
    ExitCode.UNAVAILABLE: ModelLoadFailed,
    ExitCode.PLUGIN: PluginError,
}


def stopped(record: ServerRecord, exit_code: int | None) -> MlserveError:
    """The error for a process that ended while it was starting; None: its code is not known.

    The server's own last error, where its log tells one, is in the message, and its hint is ours.
    """
    kind = Unavailable if exit_code is None else _BY_EXIT_CODE.get(exit_code, Unavailable)
    message = f"{record.name} stopped while it was starting{_how(exit_code)}"
    if exit_code == -signal.SIGKILL:
        return with_log(kind(message, hint=_hint_of_killed(record)), record)
    said = last_words(_log_lines(record, _SEARCHED))
    if said is None:
        return with_log(kind(message), record)
    return with_log(kind(f"{message}: {said.message}", hint=said.hint), record)


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    if exit_code < 0:
        return f" (ended by {signal.Signals(-exit_code).name})"
    return f" (exit code {exit_code})"


def _hint_of_killed(record: ServerRecord) -> str:
    if record.container is None:
        return "was it killed because memory ran out?"
    if container.ran_out_of_memory(record.container):
        return "it ran out of memory: give the container more (--docker-option=--memory=4g)"
    return "was it killed because memory ran out, or by hand?"


def with_log(error: MlserveError, record: ServerRecord) -> MlserveError:
    """The same error, with the last lines of the server's log as its detail `log`."""
    lines = _log_lines(record, _SHOWN)
    if lines:
        path = None if record.container is not None or record.log is None else str(record.log)
        command = f"mlserve logs {record.name}"
        error.details["log"] = {"path": path, "command": command, "end": lines}
    elif error.hint is None and record.log is None:
        error.hint = "its log is above"
    return error


def _log_lines(record: ServerRecord, count: int) -> list[str]:
    if record.container is not None:
        return container.last_lines(record.container, count)
    return last_lines(record.log, count) if record.log else []


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


_STARTS = 3


@dataclass(frozen=True, slots=True)
class Up:
    """A server that is ready. `was_running` when it had been started before."""

    record: ServerRecord
    was_running: bool


def up(request: UpRequest, tell: Tell) -> Up:
    """The server, ready to answer.

    One that already runs with these settings is joined. One that does not get ready is stopped
    again, as it is when the user interrupts. Raises UsageError for other settings or a taken port,
    PluginError for a missing runtime, Unavailable when it does not get ready.
    """
    # What is missing is told before anything starts.
    backend = plugins.backend(request.serving.backend)
    launcher = launcher_for(backend, request.serving, request.launcher)
    if launcher is Launcher.DOCKER:
        request = _with_image(backend, request, tell)
    give_up = time.monotonic() + request.wait
    with Interrupts.watched() as interrupts:
        return _bring_up(request, give_up, interrupts, tell, _STARTS)


def _with_image(backend: Backend, request: UpRequest, tell: Tell) -> UpRequest:
    """The request as an image can serve it, once that image is there; it may take minutes."""
    from mlserve.launch.docker import images

    images.require_regarded(backend, request.serving)
    serving = images.pinned(backend, request.serving)
    images.ensure_image(backend, serving, tell)
    return replace(request, serving=serving)


def mark_ready(record: ServerRecord) -> ServerRecord:
    """The record, now ready, also on disk if it still is the one of this process."""
    ready = replace(record, is_ready=True)
    with state_lock():
        if any(r.is_of_same_start(record) for r in read_records()):
            write_record(ready)
    container.let_restart(ready)
    return ready


def _bring_up(
    request: UpRequest, give_up: float, interrupts: Interrupts, tell: Tell, starts: int
) -> Up:
    server: Server | None = None
    try:
        with state_lock(give_up - time.monotonic()), interrupts.held():
            server = start_or_join(request, log_path(request.serving.name), tell)
        with interrupts.held():
            # The client takes a while to import, best while the server starts. An interrupt that
            # breaks an import off can make Python die of SIGINT instead of ending with our code.
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


def _wait(server: Server, request: UpRequest, give_up: float) -> Up:
    try:
        wait_until_ready(server.record, request.serving, give_up, server.require_alive)
    except MlserveError as error:
        if server.has_ended:
            raise
        raise with_log(error, server.record) from error
    return Up(mark_ready(server.record), server.is_joined)


def _lost_its_ports(server: Server, request: UpRequest) -> bool:
    """Whether the server ended because another process was faster to listen on a default port."""
    record = server.record
    return (
        server.has_ended
        and not request.ports.is_fixed
        and not all(ports.is_free(record.host, p) for p in (record.grpc_port, record.rest_port))
    )


_TIMEOUT = 2.0
"""Seconds that a server has to answer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server was seen to do. `why` says how that is known; empty for the usual.

    `status` is ready, starting, stopping or "not answering".
    """

    record: ServerRecord
    status: str
    why: str = ""


def see(record: ServerRecord) -> Seen:
    """What a server that runs does: as it is recorded, or asked where nobody records it any more.

    One that turns out to be ready is recorded as such.
    """
    if record.is_stopping:
        return Seen(record, "stopping")
    if record.is_ready:
        return Seen(record, "ready")
    if record.up_pid is not None and is_process(record.up_pid, record.up_created):
        return Seen(record, "starting")
    status, told = _ask(record)
    if status == "ready":
        with suppress(MlserveError):  # the state cannot be written: it is asked again next time
            record = mark_ready(record)
    return Seen(record, status, f"the `mlserve up` that started it is gone; now {told}")


def _ask(record: ServerRecord) -> tuple[str, str]:
    try:
        if answers(record, _TIMEOUT):
            return "ready", "it answers"
    except NotFound:
        return "starting", "it has no version yet"
    except (Unavailable, DeadlineExceeded) as error:
        return "not answering", error.message
    except MlserveError as error:
        return "not answering", f"it fails: {error.message}"
    return "starting", "it is loading"
