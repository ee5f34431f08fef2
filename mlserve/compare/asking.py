"""Start a server for each target, connect to all of them, and ask them in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TypeVar

import psutil

from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.compare.targets import ComparedTarget
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError
from mlserve.launch import ports
from mlserve.launch.logs import log_path
from mlserve.launch.ready import wait_until_ready
from mlserve.launch.records import Tell
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import LaunchedServer, UpRequest, request_up, start, with_log
from mlserve.serving import Serving
from mlserve.settings import EMBEDDED

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
WARM_UPS = 3
"""Answers of each target that are not timed, before the first that is."""
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """A target that answers at `endpoint`. None means unknown, as for a given endpoint.

    A server that was started for it has `rest_endpoint` beside that, which is gRPC.
    """

    target: ComparedTarget
    endpoint: str
    pid: int | None = None
    ready_seconds: float | None = None
    rest_endpoint: str | None = None

    def rss(self) -> int | None:
        """Return the server's resident memory in bytes; None if its process is gone."""
        if self.pid is None:
            return None
        try:
            return int(psutil.Process(self.pid).memory_info().rss) or None
        except psutil.NoSuchProcess:
            return None


def requests_for(targets: Sequence[ComparedTarget]) -> list[UpRequest | None]:
    """Return the servers to start for the targets; None for an endpoint, which already runs.

    Each is mlserve's own server, so that only the runtimes differ. Raises PluginError for a runtime
    that is not installed.
    """
    where = ports.PortRequest(_HOST, 0, 0)
    return [
        request_up(Serving((target.served,)), where, EMBEDDED) if target.served else None
        for target in targets
    ]


@contextmanager
def served(
    targets: Sequence[ComparedTarget],
    requests: Sequence[UpRequest | None],
    interrupts: Interrupts,
    tell: Tell,
) -> Iterator[list[Served]]:
    """Yield the targets, all answering; stop the servers started here at the end.

    They start one after the other, so that none slows another's start. Raises as `mlserve up` does.
    """
    # Its slow import must not count as a server's time to ready.
    import_module("mlserve.client")
    with ExitStack() as stack:
        found = []
        for index, (target, request) in enumerate(zip(targets, requests, strict=True)):
            if request:
                tell(f"starting {target.name}")
                name = f"compare-{index + 1}-{request.serving.name}"
                found.append(_start(target, request, name, interrupts, stack))
            else:
                found.append(Served(target, target.endpoint or ""))
        yield found


def _start(
    target: ComparedTarget, request: UpRequest, name: str, interrupts: Interrupts, stack: ExitStack
) -> Served:
    began = time.monotonic()
    with interrupts.held():
        started = start(request, ports.choose(request.ports), log_path(name), _say_nothing)
        server = LaunchedServer(replace(started.record, name=name), started.process)
        stack.callback(partial(_stop, server, interrupts))
    try:
        give_up = began + request.wait
        wait_until_ready(server.record, request.serving, give_up, server.require_alive)
    except MlserveError as error:
        raise error if server.has_ended else with_log(error, server.record) from error
    seconds = time.monotonic() - began
    record = server.record
    return Served(target, record.grpc_endpoint, record.pid, seconds, record.rest_endpoint)


def _stop(server: LaunchedServer, interrupts: Interrupts) -> None:
    with interrupts.held():
        server.abandon()


def _say_nothing(_line: str) -> None:
    """Print nothing about ports that the system chose."""


def connected(served: Sequence[Served], stack: ExitStack) -> list[Client]:
    """Return a client for each target, closed with `stack`."""
    return [
        stack.enter_context(
            Client(
                each.endpoint,
                model=each.target.model,
                version=each.target.version,
                retries=ONCE,
                throttle=False,
            )
        )
        for each in served
    ]


def runs_on(client: Client, timeout: float) -> str | None:
    """Return the runtime, precision and device that a server names; None if it names none.

    Raises the errors of any call: it also shows that the server answers.
    """
    told = client.metadata(timeout=Deadline.after(timeout)).served_by
    if told is None:
        return None
    return "; ".join(part for part in told.split("; ") if not part.startswith("certificate="))


def each_in_turn(
    asked: Sequence[Asked], first: int, ask: Callable[[Asked], Answer]
) -> list[Answer]:
    """Ask every target, starting with number `first`, and return the answers in their order."""
    count = len(asked)
    order = [(first + step) % count for step in range(count)]
    answers = {target: ask(asked[target]) for target in order}
    return [answers[target] for target in range(count)]
