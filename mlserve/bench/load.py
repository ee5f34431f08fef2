"""One load on one target from this process: a closed loop, or an open one.

There is no task and no future a request: an answer calls back, and that sends the next request.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from mlserve.bench.alarm import Alarm
from mlserve.bench.arrivals import Arrivals
from mlserve.bench.connection import LOST, NOT_CONNECTED, UNSEEN, Attempt, LoadConnection
from mlserve.bench.server_process import ServerProcesses
from mlserve.bench.tally import ANSWERED, EXPIRED, LATE, LEFT, End, Tally
from mlserve.bench.target import Target
from mlserve.system import allow_open_files

MOST_CONNECTIONS = 1024
"""Connections that an open loop opens at most; what finds none waits, and its latency counts."""
_NOTICE, _PART_TO_NOTICE = 0.005, 0.01
"""What the generator itself may take to notice an answer: seconds, and the part of the timeout."""
_STALE = 1.0
"""Seconds from which on an idle connection may be one that the server is about to close."""
_LOOK = 0.1
"""Seconds before the measured time at which the server's processes are looked for."""
_SWEEP = 0.005
_TOGETHER = 0.1
"""Seconds until several loads have opened their first connections, and begin."""
_PAUSE = 0.05
"""Seconds until a client tries again that could not connect."""
_SAMPLES = 4096
"""Server-Timing headers that are kept: every one, then every second, and so on."""
SPARE_FILES = 64
"""Files that a process of the generator opens beside its connections."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` clients, each of which asks again as soon as it has its answer."""

    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} client{'s'[: self.concurrency != 1]}"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests at planned moments, `rate` a second, whatever becomes of those before.

    A client without an answer asks again at once, up to `retries` times, and counts once: by how
    its last attempt ended.
    """

    rate: float
    arrivals: Arrivals = field(default_factory=Arrivals)
    retries: int = 0

    def __str__(self) -> str:
        return f"{self.rate:.5g}/s"


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True)
class Window:
    """How long a load runs: `warm_up` seconds that are not counted, then `seconds`.

    Each request has its own timeout, from its planned moment; `timeout` is the longest of them.
    `keeps_ends` has the tally keep how each request ended.
    """

    seconds: float
    warm_up: float
    timeout: float
    seed: int = 0
    keeps_ends: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a load this process sends: number `index` of `count` processes.

    All begin at the moment `start` of the monotonic clock; None is now.
    """

    index: int = 0
    count: int = 1
    start: float | None = None


def run_load(target: Target, load: Load, window: Window, share: Share = Share()) -> Tally:
    """Run this process's share of a load, and return what became of it.

    An interrupt (Ctrl-C) ends the load early: the tally is of what was measured, and not whole.
    """
    [tally] = run_loads([(target, load, window)], share)
    return tally


def run_loads(loads: Sequence[tuple[Target, Load, Window]], share: Share = Share()) -> list[Tally]:
    """Run this process's share of several loads at the same time, each on a target of its own."""
    return asyncio.run(_run(loads, share))


async def _run(loads: Sequence[tuple[Target, Load, Window]], share: Share) -> list[Tally]:
    if len(loads) > 1 and share.start is None:
        share = replace(share, start=asyncio.get_running_loop().time() + _TOGETHER)
    runs = [_run_of(target, load, window, share) for target, load, window in loads]
    tasks = [asyncio.ensure_future(run.whole()) for run in runs]
    with _cancelling(tasks):
        await asyncio.wait(tasks)
    for run, task in zip(runs, tasks, strict=True):
        if task.cancelled():
            run.tally.is_whole = False
        else:
            task.result()  # raises what it has raised
    return [run.tally for run in runs]


def _run_of(target: Target, load: Load, window: Window, share: Share) -> _Run:
    if isinstance(load, ClosedLoop):
        return _Closed(target, load, window, share)
    return _Open(target, load, window, share)


@contextmanager
def _cancelling(tasks: Sequence[asyncio.Task[Tally]]) -> Iterator[None]:
    """Cancel the tasks on Ctrl-C and SIGTERM, whatever they do otherwise. Main thread only."""

    def cancel() -> None:
        for task in tasks:
            task.cancel()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number, action in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, action)


class _Run(ABC):
    """A load while it runs: connections, requests, and the tally."""

    def __init__(self, target: Target, load: Load, window: Window, share: Share) -> None:
        self._loop = asyncio.get_running_loop()
        self._target, self._window, self._share = target, window, share
        self._open = target.opener()
        self._requests = cycle(target.requests)
        for _ in islice(self._requests, share.index % len(target.requests)):
            pass
        self._idle: list[LoadConnection] = []
        self._busy: set[LoadConnection] = set()
        self._opening: set[asyncio.Future[LoadConnection]] = set()
        self._waiting: deque[Attempt] = deque()
        self._retries = load.retries if isinstance(load, OpenLoop) else 0
        self._most_connections = MOST_CONNECTIONS
        self._server = ServerProcesses(target.pids if share.index == 0 else ())
        self.tally = Tally()
        self._begin = self._end = 0.0
        self._is_counting = self._is_over = False
        self._samples: list[bytes] = []
        self._sample_every, self._until_sample = 1, 1
        self._cpu_before = 0.0

    async def whole(self) -> Tally:
        """Run the load to its end."""
        self._server.look()
        await self._prepare()
        start = max(self._loop.time(), self._share.start or 0.0)
        self._begin = start + self._window.warm_up
        self._end = self._begin + self._window.seconds
        if self._window.warm_up > _LOOK:  # it takes milliseconds, which would be in the figures
            self._loop.call_at(self._begin - _LOOK, self._server.look)
        self._loop.call_at(self._begin, self._start_counting)
        self._sweep()
        try:
            await self._send_all(start)
            self._is_over = True
        finally:
            self._stop_counting(self._end)
            self._close()
        return self.tally

    @abstractmethod
    async def _prepare(self) -> None:
        """Open the connections that are there before the load begins."""

    @abstractmethod
    async def _send_all(self, start: float) -> None:
        """Send all requests, from the moment `start` to the end."""

    @abstractmethod
    def _is_counted(self, planned: float, now: float) -> bool:
        """Return whether a request belongs to what is measured."""

    @abstractmethod
    def _after(self) -> None:
        """Do what follows the end of a request."""

    def _ask(self, planned: float) -> None:
        """Send the next request, or have it wait for a connection."""
        request = next(self._requests)
        due = planned + request.timeout + min(_NOTICE, request.timeout * _PART_TO_NOTICE)
        self._try(Attempt(request, planned, due, planned, self._retries))

    def _try(self, attempt: Attempt) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.is_stale = self._loop.time() - connection.free_since > _STALE
                self._send(connection, attempt)
                return
        self._waiting.append(attempt)
        count = len(self._busy) + len(self._opening)
        if len(self._opening) < len(self._waiting) and count < self._most_connections:
            self._connect()

    def _send(self, connection: LoadConnection, attempt: Attempt) -> None:
        connection.attempt = attempt
        self._busy.add(connection)
        now = self._loop.time()
        if self._is_counted(attempt.first, now):
            self.tally.lag.add(now - attempt.planned)
        connection.send(attempt.request)

    def _connect(self) -> None:
        opening = self._open(self._ended)
        self._opening.add(opening)
        opening.add_done_callback(self._connected)

    def _connected(self, opening: asyncio.Future[LoadConnection]) -> None:
        self._opening.discard(opening)
        if opening.cancelled():
            return
        if opening.exception() is None:
            connection = opening.result()
            if self._is_over:
                connection.close()
            else:
                self._reuse(connection)
        elif self._waiting and not self._is_over:
            self._miss(self._waiting.popleft())

    def _miss(self, attempt: Attempt) -> None:
        """Count a request for which no connection could be made."""
        self._count(attempt, NOT_CONNECTED)

    def _reuse(self, connection: LoadConnection) -> None:
        if not connection.is_open:
            if self._waiting:
                self._connect()
        elif self._waiting:
            connection.is_stale = False
            self._send(connection, self._waiting.popleft())
        else:
            connection.free_since = self._loop.time()
            self._idle.append(connection)

    def _ended(self, connection: LoadConnection, kind: str, timing: bytes) -> None:
        self._busy.discard(connection)
        if self._is_over:
            return
        if kind in (LOST, UNSEEN):
            if self._is_to_resend(connection, kind):
                self._resend(connection.attempt)
                return
            kind = LOST
        connection.is_used = True
        if kind == ANSWERED and timing and self._is_counting:
            self._sample(timing)
        attempt = connection.attempt
        if kind == ANSWERED and self._loop.time() > attempt.due:
            kind = LATE if attempt.request.is_told else LEFT
        self._reuse(connection)
        self._count(attempt, kind)

    def _is_to_resend(self, connection: LoadConnection, kind: str) -> bool:
        """Return whether a request met a connection that the server was closing for another reason.

        It is then sent once more, as every client does; never twice, as that is on a new one.
        """
        if kind == UNSEEN:
            return connection.is_used
        return connection.is_stale and not connection.has_begun

    def _resend(self, attempt: Attempt) -> None:
        if self._is_counted(attempt.first, self._loop.time()):
            self.tally.resent += 1
        self._waiting.appendleft(attempt)
        self._connect()

    def _count(self, attempt: Attempt, kind: str) -> None:
        now, first = self._loop.time(), attempt.first
        is_counted = self._is_counted(first, now)
        if attempt.retries and kind not in (ANSWERED, LATE):
            self.tally.retried += is_counted
            due = now + attempt.due - attempt.planned
            self._try(Attempt(attempt.request, now, due, first, attempt.retries - 1))
            return
        if is_counted:
            self.tally.latencies[kind].add(now - first)
        if self._window.keeps_ends:
            label = attempt.request.label
            self.tally.ends.append(End(first - self._begin, now - self._begin, kind, label))
        self._after()

    def _sample(self, timing: bytes) -> None:
        self._until_sample -= 1
        if self._until_sample:
            return
        self._samples.append(timing)
        if len(self._samples) >= _SAMPLES:
            del self._samples[::2]
            self._sample_every *= 2
        self._until_sample = self._sample_every

    def _sweep(self) -> None:
        """Give up the requests whose time is over."""
        now = self._loop.time()
        for connection in [each for each in self._busy if each.attempt.due < now]:
            attempt = connection.attempt
            self._busy.discard(connection)
            connection.give_up()
            self._reuse(connection)
            self._count(attempt, EXPIRED if attempt.request.is_told else LEFT)
        if overdue := [each for each in self._waiting if each.due < now]:
            self._waiting = deque(each for each in self._waiting if each.due >= now)
            for attempt in overdue:
                self._count(attempt, EXPIRED if attempt.request.is_told else LEFT)
        if not self._is_over:
            self._loop.call_later(_SWEEP, self._sweep)

    def _start_counting(self) -> None:
        self._is_counting = True
        self._cpu_before = time.process_time()
        self._server.start()

    def _stop_counting(self, at: float) -> None:
        """Note what the measured time has cost; called once, at its end."""
        if not self._is_counting:
            return
        self._is_counting = False
        seconds = max(0.0, min(self._loop.time(), at) - self._begin)
        self.tally.seconds = seconds
        self.tally.generator_cpu = time.process_time() - self._cpu_before
        self.tally.busiest_generator = self.tally.generator_cpu / seconds if seconds else 0.0
        self._server.stop()

    def _close(self) -> None:
        self._is_over = True
        self.tally.server_cpu = self._server.cpu_seconds()
        for header in self._samples:
            self.tally.take_stages(header.decode("latin-1"))
        for opening in self._opening:
            opening.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.close()


class _Closed(_Run):
    """Clients that ask again as soon as they have an answer; what ends in the window counts."""

    def __init__(self, target: Target, load: ClosedLoop, window: Window, share: Share) -> None:
        super().__init__(target, load, window, share)
        extra = share.index < load.concurrency % share.count
        self._clients = load.concurrency // share.count + extra
        allow_open_files(self._clients + SPARE_FILES)  # a process may be older than this load
        self._most_connections = self._clients

    async def _prepare(self) -> None:
        for _ in range(self._clients):
            self._connect()
        if self._opening:
            await asyncio.wait(self._opening, timeout=self._window.timeout)

    async def _send_all(self, start: float) -> None:
        await asyncio.sleep(max(0.0, start - self._loop.time()))
        for _ in range(self._clients):
            self._ask(self._loop.time())
        await asyncio.sleep(max(0.0, self._end - self._loop.time()))

    def _miss(self, attempt: Attempt) -> None:
        """Let the client wait: it would ask without end."""
        self._loop.call_later(_PAUSE, super()._miss, attempt)

    def _is_counted(self, planned: float, now: float) -> bool:
        return self._begin <= now < self._end

    def _after(self) -> None:
        if not self._is_over:
            self._ask(self._loop.time())


class _Open(_Run):
    """Requests at planned moments; what was planned in the window counts, whenever it ends."""

    def __init__(self, target: Target, load: OpenLoop, window: Window, share: Share) -> None:
        super().__init__(target, load, window, share)
        whole = window.warm_up + window.seconds
        moments = load.arrivals.moments(load.rate, whole, window.seed)
        self._moments = islice(moments, share.index, None, share.count)
        self._start, self._next = 0.0, next(self._moments, None)
        files = allow_open_files(MOST_CONNECTIONS + SPARE_FILES)
        self._most_connections = max(1, min(MOST_CONNECTIONS // share.count, files - SPARE_FILES))

    async def _prepare(self) -> None:
        self._connect()

    def _after(self) -> None:
        """Nothing follows: the next request has its own moment."""

    async def _send_all(self, start: float) -> None:
        self._start = start
        alarm = Alarm(lambda: self._send_due(alarm))
        try:
            self._send_due(alarm)
            await asyncio.sleep(max(0.0, self._end - self._loop.time()))
            self._stop_counting(self._end)
            # Polled, so that no request pays for an event.
            while self._is_unfinished:  # noqa: ASYNC110
                await asyncio.sleep(_SWEEP)
        finally:
            alarm.close()

    @property
    def _is_unfinished(self) -> bool:
        """Whether a request is to be sent, or to end."""
        return bool(self._next is not None or self._busy or self._waiting or self._opens)

    @property
    def _opens(self) -> bool:
        """Whether connections are being opened that may still come; some hang for minutes."""
        return bool(self._opening) and self._loop.time() < self._end + self._window.timeout

    def _send_due(self, alarm: Alarm) -> None:
        """Send the requests whose moment has come, and wait for the next."""
        clock = self._loop.time
        while self._next is not None and (due := self._start + self._next) <= clock():
            self._next = next(self._moments, None)
            self._ask(due)
        if self._next is not None:
            alarm.set(self._start + self._next)

    def _is_counted(self, planned: float, now: float) -> bool:
        return self._begin <= planned < self._end
