"""The load generator of `overload.py`: one process of requests, each with a total timeout.

It shares the machine with the server that it measures, so it does as little as possible: requests
are prebuilt bytes, sent over plain HTTP/1.1 on a socket or gRPC, and answers are not parsed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import grpc
import psutil

_IDLE = 0.1
"""A server that uses less than this fraction of one core is idle."""
_LOOK = 0.05


class Ending(Enum):
    """The outcome of one request."""

    ANSWERED = "in time"
    LATE = "late"
    REFUSED = "refused"
    EXPIRED = "no answer in time"
    FAILED = "failed"


Ask = Callable[[float], Awaitable[Ending]]
"""Sends one request, with that timeout in seconds."""
_HTTP_ENDINGS = {
    b"200": Ending.ANSWERED,
    b"429": Ending.REFUSED,
    b"503": Ending.REFUSED,
    b"504": Ending.EXPIRED,
}
_NOTICE = 0.005
"""Seconds that the generator itself, on a busy machine, may take to notice an answer."""


@dataclass
class Tally:
    """The outcomes of the requests of a load; times are seconds."""

    seconds: float = 0.0
    ended: dict[Ending, list[float]] = field(default_factory=lambda: {e: [] for e in Ending})
    idle_after: float = 0.0
    lag: float = 0.0
    """The generator's own worst delay."""

    def count(self, ending: Ending) -> int:
        """Return the number of requests that ended so."""
        return len(self.ended[ending])

    @property
    def goodput(self) -> float:
        """Return the answers in time, per second."""
        return self.count(Ending.ANSWERED) / self.seconds

    def p99(self, ending: Ending) -> float:
        """Return the 99th percentile of the latency of requests that ended so; 0 if none did."""
        latencies = sorted(self.ended[ending])
        return latencies[int(0.99 * (len(latencies) - 1))] if latencies else 0.0


def over_grpc(channel: grpc.aio.Channel, request: bytes) -> Ask:
    """Return a function that calls TensorFlow Serving's Predict."""
    method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    refusals = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)

    async def ask(timeout: float) -> Ending:  # noqa: ASYNC109  it is sent with the call
        try:
            await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in refusals:
                return Ending.REFUSED
            is_expired = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return Ending.EXPIRED if is_expired else Ending.FAILED
        return Ending.ANSWERED

    return ask


def over_http(port: int, path: str, body: bytes, media_type: str) -> Ask:
    """Return a function that uses HTTP/1.1 keep-alive; a connection that times out is closed."""
    idle: list[_Connection] = []
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {media_type}\r\n"
    head += f"content-length: {len(body)}\r\nx-request-timeout-ms: "

    async def ask(timeout: float) -> Ending:  # noqa: ASYNC109  the whole of it is limited
        request = f"{head}{timeout * 1000:.0f}\r\n\r\n".encode() + body
        try:
            connection = idle.pop() if idle else await _connect(port)
            status = await connection.ask(request, timeout)
        except TimeoutError:
            return Ending.EXPIRED
        except OSError:
            return Ending.FAILED
        if not connection.is_closed:
            idle.append(connection)
        return _HTTP_ENDINGS.get(status, Ending.FAILED)

    return ask


async def _connect(port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
    return connection


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, which parses only the status and the length of an answer."""

    def __init__(self) -> None:
        self.is_closed = False
        self._answer: asyncio.Future[bytes] | None = None
        self._came = b""
        self._transport: asyncio.Transport | None = None

    async def ask(self, request: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        """Return the status. Raises TimeoutError, and OSError for a lost connection."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._came, self._answer = b"", loop.create_future()
        alarm = loop.call_later(timeout, self._give_up)
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            alarm.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Complete the request when the whole answer has arrived."""
        self._came += data
        head, found, rest = self._came.partition(b"\r\n\r\n")
        if not found or self._answer is None or self._answer.done():
            return
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        if len(rest) >= length:
            self._answer.set_result(head[9:12])

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request."""
        self.is_closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server hung up"))

    def _give_up(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())
        if self._transport is not None:
            self._transport.abort()


async def capacity(ask: Ask, clients: int, seconds: float) -> float:
    """Return the answers per second of `clients` that each send one request after another."""
    answers = 0
    until = time.monotonic() + seconds

    async def client() -> None:
        nonlocal answers
        while time.monotonic() < until:
            if await ask(30.0) is Ending.ANSWERED:
                answers += 1

    started = time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    return answers / (time.monotonic() - started)


async def overload(
    ask: Ask, rate: float, seconds: float, limit: Callable[[], float], server: psutil.Process
) -> Tally:
    """Send requests at random moments, `rate` per second on average, whatever their outcome.

    `limit` returns the timeout of each request, in seconds.
    """
    tally = Tally()
    tasks: set[asyncio.Task[None]] = set()
    chance = random.Random(0)
    started = due = time.monotonic()

    async def one() -> None:
        within, asked = limit(), time.monotonic()
        ending = await ask(within)
        latency = time.monotonic() - asked
        if ending is Ending.ANSWERED and latency > within + _NOTICE:
            ending = Ending.LATE
        tally.ended[ending].append(latency)

    while (due := due + chance.expovariate(rate)) < started + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tally.lag = max(tally.lag, time.monotonic() - due)
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    tally.seconds = time.monotonic() - started
    tally.idle_after = await _seconds_until_idle(server)
    return tally


async def _seconds_until_idle(server: psutil.Process, at_most: float = 20.0) -> float:
    """Return the seconds until the process stops using the CPU."""
    started = time.monotonic()
    busy_until, used, at = started, _cpu_seconds(server), started
    while at - busy_until < 4 * _LOOK and at - started < at_most:
        await asyncio.sleep(_LOOK)
        now, now_used = time.monotonic(), _cpu_seconds(server)
        if now_used - used > _IDLE * (now - at) + 0.01:  # the clock ticks every 0.01 s
            busy_until = now
        used, at = now_used, now
    return busy_until - started


def _cpu_seconds(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system
