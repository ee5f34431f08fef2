"""Servers for the exported models that are compared: on free ports, unknown to `mlserve ps`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module

import psutil

from mlserve.compare.targets import Target
from mlserve.errors import MlserveError
from mlserve.launch import ports
from mlserve.launch.failures import with_log
from mlserve.launch.interrupts import Interrupts
from mlserve.launch.launcher import Launcher
from mlserve.launch.logs import log_path
from mlserve.launch.plan import Serving
from mlserve.launch.ready import wait_until_ready
from mlserve.launch.start import Server, UpRequest, start

_HOST = "127.0.0.1"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Served:
    """A target that answers at `endpoint`. What is None is not known of a foreign endpoint."""

    target: Target
    endpoint: str
    pid: int | None = None
    ready_seconds: float | None = None

    def rss(self) -> int | None:
        """The resident memory of the server's process now, in bytes; None when it is gone."""
        if self.pid is None:
            return None
        try:
            return int(psutil.Process(self.pid).memory_info().rss) or None
        except psutil.NoSuchProcess:
            return None


@contextmanager
def served(targets: Sequence[Target], interrupts: Interrupts, tell: Tell) -> Iterator[list[Served]]:
    """The targets, all answering; the servers that were started for it are stopped at the end.

    Each server is mlserve's own, so that what differs is the runtime. They start one after the
    other, so that none is in the way of another's time to ready. Raises as `mlserve up` does.
    """
    # It takes a while to import, which is no part of a server's time to ready.
    import_module("mlserve.client")
    with ExitStack() as stack:
        found = []
        for index, target in enumerate(targets):
            if target.serving:
                tell(f"starting {target.name}")
                name = f"compare-{index + 1}-{target.serving.name}"
                found.append(_start(target, target.serving, name, interrupts, stack))
            else:
                found.append(Served(target, target.endpoint or ""))
        yield found


def _start(
    target: Target, serving: Serving, name: str, interrupts: Interrupts, stack: ExitStack
) -> Served:
    request = UpRequest(serving, ports.PortRequest(_HOST, 0, 0), Launcher.EMBEDDED)
    began = time.monotonic()
    with interrupts.held():
        started = start(request, ports.choose(request.ports), log_path(name), _say_nothing)
        server = Server(replace(started.record, name=name), started.process)
        stack.callback(partial(_stop, server, interrupts))
    try:
        wait_until_ready(server.record, serving, began + request.wait, server.require_alive)
    except MlserveError as error:
        raise error if server.has_ended else with_log(error, server.record) from error
    seconds = time.monotonic() - began
    return Served(target, server.record.grpc_endpoint, server.record.pid, seconds)


def _stop(server: Server, interrupts: Interrupts) -> None:
    with interrupts.held():
        server.abandon()


def _say_nothing(_line: str) -> None:
    """Nothing is said of ports that the system chose."""
