"""Run a server in the foreground, as in a container: its log on stderr, its exit code ours."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from subprocess import Popen
from types import FrameType

from mlserve.activation import PassedSockets, take_sockets
from mlserve.errors import MlserveError, UsageError
from mlserve.launch import ports
from mlserve.launch.command import Process
from mlserve.launch.ready import mark_ready, wait_until_ready
from mlserve.launch.records import ServerRecord, Tell, state_lock
from mlserve.launch.up import LaunchedServer, UpRequest, start_or_join
from mlserve.notify import Notifier
from mlserve.settings import DOCKER, EMBEDDED

_PAUSE = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_in_foreground(
    request: UpRequest, on_ready: Callable[[ServerRecord], None], tell: Tell
) -> int:
    """Run the server until it ends, and return its exit code (128 + n if signal n ended it).

    SIGTERM and SIGINT make it drain and stop; a second one kills it. SIGHUP has it read its
    configuration file again. `on_ready` is called once it answers. Sockets that this process was
    started with take the place of ports, and the service manager that did so is told how the server
    is: mlserve's own server does that by itself. Raises what `up` raises.
    """
    if request.launcher == DOCKER:
        raise UsageError(
            "the docker launcher only runs servers in the background",
            hint="leave --foreground out, or run the image yourself: mlserve build, docker run",
        )
    is_own = request.launcher == EMBEDDED
    notifier = Notifier.left_to_child() if is_own else Notifier.taken()
    if passed := take_sockets():
        request = _with_sockets(request, passed)
    forwarding = _Forwarding(notifier, follows_file=request.serving.config is not None)
    with ExitStack() as signals:
        with state_lock(request.wait):  # until it is held, a signal ends this command at once
            signals.enter_context(forwarding.installed())
            server = start_or_join(request, None, tell)
        process = server.process
        if not isinstance(process, Popen):
            raise _already_running(server.record)
        forwarding.to(process)
        try:
            return _serve(server, process, request, on_ready, notifier)
        finally:
            server.abandon()


def _serve(
    server: LaunchedServer,
    process: Process,
    request: UpRequest,
    on_ready: Callable[[ServerRecord], None],
    notifier: Notifier,
) -> int:
    give_up = time.monotonic() + request.wait
    try:
        wait_until_ready(server.record, request.serving, give_up, server.require_alive)
        on_ready(mark_ready(server.record))
        notifier.ready(f"{server.record.name} answers")
    except MlserveError:
        # A server that ended has explained itself on stderr; its exit code is the result.
        if not server.has_ended:
            raise
    # Not process.wait(): the system may deliver a signal to any thread, while Python runs the
    # handler on the main thread, which would stay blocked in that call.
    while (code := process.poll()) is None:
        time.sleep(_PAUSE)
    return code if code >= 0 else 128 - code


class _Forwarding:
    """Forward SIGTERM and SIGINT to a process, including those received before it existed.

    For a server that `follows_file`, also SIGHUP.
    """

    def __init__(self, notifier: Notifier, *, follows_file: bool) -> None:
        self._notifier = notifier
        self._signals = (*_SIGNALS, signal.SIGHUP) if follows_file else _SIGNALS
        self._process: Process | None = None
        self._count = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in self._signals}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    def to(self, process: Process) -> None:
        self._process = process
        self._send()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._pass_on(number)
        else:
            self._count += 1
            self._notifier.stopping("ending")
            self._send()

    def _send(self) -> None:
        if self._count:
            self._pass_on(signal.SIGKILL if self._count > 1 else signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # it leads its group


def _with_sockets(request: UpRequest, passed: PassedSockets) -> UpRequest:
    """Return the request with these sockets in place of ports. Raises UsageError."""
    if request.launcher != EMBEDDED:
        raise UsageError(
            f"the {request.launcher} launcher does not take sockets that are passed to it",
            hint="add --launcher embedded, or start it without socket units",
        )
    return replace(request, ports=ports.request_passed(passed))


def _already_running(record: ServerRecord) -> UsageError:
    return UsageError(
        f"{record.name} is already running ({record.identity})",
        hint=f"stop it first: mlserve down {record.name}",
    )
