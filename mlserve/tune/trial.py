"""One trial: a server with some options, what one client and many get of it, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.processes import LoadProcesses
from mlserve.bench.server_process import ServerProcesses
from mlserve.bench.tally import Tally
from mlserve.bench.target import Target
from mlserve.errors import InferenceFailed, MlserveError, counted
from mlserve.launch import ports
from mlserve.launch.logs import log_path
from mlserve.launch.ready import wait_until_ready
from mlserve.launch.records import ServerRecord
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import LaunchedServer, UpRequest, start, with_log
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.tune.golden import Examine, problem_text
from mlserve.tune.judge import Figures, Sample

_WARM_UP = 0.3
_LEAST, _MOST = 0.7, 5.0
"""Seconds that a load is measured."""
_ANSWERS = 25
"""Answers of one client that make a median."""
_MILLI = 1000


@dataclass(slots=True)
class Trials:
    """Tries options on servers that it starts as `request` says, one after the other.

    `target_of` returns what is sent to a server. `many` is how many clients ask at once after the
    one, and each of their requests has `timeout` seconds.
    """

    request: UpRequest
    target_of: Callable[[ServerRecord], Target]
    many: int
    timeout: float
    loads: LoadProcesses
    interrupts: Interrupts
    examine: Examine | None = None
    """Asks a server the golden inputs; None if the model has none."""
    seconds: float | None = None
    """How long each load is measured, once the first answers have told how slow the model is."""

    def __call__(self, options: LoadOptions) -> Sample:
        """Return what a server with these options does.

        Raises MlserveError if it fails, and InferenceFailed for answers that do not hold to the
        certificate, unless they are to be served all the same.
        """
        began = time.monotonic()
        with self._server(options) as record:
            ready = time.monotonic() - began
            golden = None if self.examine is None else self.examine(record)
            if golden and not golden.holds and options.on_drift is not OnDrift.SERVE:
                raise InferenceFailed(
                    f"the certificate does not hold: {problem_text(golden)}",
                    hint="leave the option out, or accept it: --on-drift serve",
                )
            target = self.target_of(record)
            if self.seconds is None:
                self.seconds = self._seconds_for(target)
            alone = self._figures(target, 1)
            crowded = self._figures(target, self.many)
            memory = ServerProcesses((record.pid,)).pss()
        return Sample(alone, crowded, memory, ready, golden)

    @contextmanager
    def _server(self, options: LoadOptions) -> Iterator[ServerRecord]:
        """Start a server that no other command sees; it ends with the block, whatever happens."""
        model = replace(self.request.serving.only, options=options)
        request = replace(self.request, serving=replace(self.request.serving, models=(model,)))
        name = f"tune-{request.serving.name}"
        give_up = time.monotonic() + request.wait
        with self.interrupts.held():
            listen = ports.choose(request.ports)
            started = start(request, listen, log_path(name), lambda _line: None)
            server = LaunchedServer(replace(started.record, name=name), started.process)
        try:
            try:
                wait_until_ready(server.record, request.serving, give_up, server.require_alive)
            except MlserveError as error:
                raise error if server.has_ended else with_log(error, server.record) from error
            yield server.record
        finally:
            with self.interrupts.held():
                server.abandon()

    def _seconds_for(self, target: Target) -> float:
        """Return how long to measure so that one client gets enough answers."""
        middle = self._load(target, 1, _LEAST).answers.quantile(0.5) or 0.0
        return min(max(_LEAST, _ANSWERS * middle), _MOST)

    def _figures(self, target: Target, clients: int) -> Figures:
        assert self.seconds is not None, "the first trial sets it"
        tally = self._load(target, clients, self.seconds)
        p50, p99 = (tally.answers.quantile(share) or 0.0 for share in (0.5, 0.99))
        return Figures(tally.goodput, p50 * _MILLI, p99 * _MILLI)

    def _load(self, target: Target, clients: int, seconds: float) -> Tally:
        """Send a load and return what became of it. Raises InferenceFailed without any answer."""
        window = Window(seconds, _WARM_UP, self.timeout)
        tally = self.loads.run(target, ClosedLoop(clients), window)
        if not tally.is_whole:
            raise KeyboardInterrupt
        if failed := tally.failed:
            kind, count = next(iter(failed.items()))
            raise InferenceFailed(
                f"{counted(count, 'request')} of {tally.requests} failed: {kind}",
                hint="ask it yourself to see why: mlserve up, and mlserve predict",
            )
        if not tally.in_time:
            raise InferenceFailed(
                f"none of {counted(tally.requests, 'request')} was answered within "
                f"{self.timeout:g} s by {counted(clients, 'client')}",
                hint="give each request more time: --timeout",
            )
        return tally
