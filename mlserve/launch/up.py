"""Brings a server up in the background, and returns when it is ready."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib import import_module

from mlserve import plugins
from mlserve.backend import Backend
from mlserve.errors import MlserveError
from mlserve.launch import ports
from mlserve.launch.command import launcher_for
from mlserve.launch.docker import containers
from mlserve.launch.failures import with_log
from mlserve.launch.interrupts import Interrupts
from mlserve.launch.launcher import Launcher
from mlserve.launch.lock import state_lock
from mlserve.launch.logs import log_path
from mlserve.launch.ready import wait_until_ready
from mlserve.launch.start import Server, Tell, UpRequest, start_or_join
from mlserve.launch.state import ServerRecord, read_records, write_record

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
    from mlserve.launch.docker import build, images

    images.require_regarded(backend, request.serving)
    serving = images.pinned(backend, request.serving)
    build.ensure_image(backend, serving, tell)
    return replace(request, serving=serving)


def mark_ready(record: ServerRecord) -> ServerRecord:
    """The record, now ready, also on disk if it still is the one of this process."""
    ready = replace(record, is_ready=True)
    with state_lock():
        if any(r.is_of_same_start(record) for r in read_records()):
            write_record(ready)
    containers.let_restart(ready)
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
