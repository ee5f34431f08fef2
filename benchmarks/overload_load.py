"""The load of `overload.py`: questions to a server from one process, each with a total timeout.

It shares the machine with the server that it measures, so it does as little as it can: requests are
bytes that were made before, over gRPC or plain HTTP/1.1 on a socket, and answers are not looked
into.
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

_HTTP_REFUSALS = (b"429", b"503")
_GIVEN_UP_EARLY = 0.01
_IDLE = 0.1
"""A server that uses less than this part of one core is idle."""
_LOOK = 0.05


class Ending(Enum):
    """What became of one request."""

    ANSWERED = "in time"
    LATE = "late"
    REFUSED = "refused"
    EXPIRED = "no answer in time"
    FAILED = "failed"


Ask = Callable[[float], Awaitable[Ending]]
"""Asks once, with that timeout in seconds."""


@dataclass
class Tally:
    """What became of the requests of a load; times are seconds."""

    seconds: float = 0.0
    ended: dict[Ending, list[float]] = field(default_factory=lambda: {e: [] for e in Ending})
    idle_after: float = 0.0
    lag: float = 0.0
    """How far behind the generator itself was at worst."""

    def count(self, ending: Ending) -> int:
        """How many requests ended so."""
        return len(self.ended[ending])

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return self.count(Ending.ANSWERED) / self.seconds

    def p99(self, ending: Ending) -> float:
        """The 99th percentile of the latency of what ended so; 0 when nothing did."""
        latencies = sorted(self.ended[ending])
        return latencies[int(0.99 * (len(latencies) - 1))] if latencies else 0.0


def over_grpc(channel: grpc.aio.Channel, request: bytes) -> Ask:
    """Asks TensorFlow Serving's Predict."""
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


def over_http(port: int, body: bytes) -> Ask:
    """Asks the usual server, each time on a connection of its own."""
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    request = head.encode() + b"content-type: image/jpeg\r\nconnection: close\r\n\r\n" + body

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()

    async def ask(timeout: float) -> Ending:  # noqa: ASYNC109  the whole of it is limited
        try:
            answer = await asyncio.wait_for(talk(), timeout)
        except TimeoutError:
            return Ending.EXPIRED
        except OSError:
            return Ending.FAILED
        status = answer[9:12]
        if status == b"200":
            return Ending.ANSWERED
        return Ending.REFUSED if status in _HTTP_REFUSALS else Ending.FAILED

    return ask


async def capacity(ask: Ask, clients: int, seconds: float) -> float:
    """Answers a second when so many clients ask one question after the other."""
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
    """Asks at random moments, `rate` times a second on average, whatever becomes of it.

    `limit` gives the timeout of each request, in seconds.
    """
    tally = Tally()
    tasks: set[asyncio.Task[None]] = set()
    chance = random.Random(0)
    started = due = time.monotonic()

    async def one() -> None:
        within, asked = limit(), time.monotonic()
        ending = await ask(within)
        latency = time.monotonic() - asked
        if ending is Ending.ANSWERED and latency > within:
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
    """Seconds until the process stops using the CPU."""
    started = time.monotonic()
    busy_until, used, at = started, _cpu_seconds(server), started
    while at - busy_until < 4 * _LOOK and at - started < at_most:
        await asyncio.sleep(_LOOK)
        now, now_used = time.monotonic(), _cpu_seconds(server)
        if now_used - used > _IDLE * (now - at) + 0.01:  # the clock's ticks are 0.01 s
            busy_until = now
        used, at = now_used, now
    return busy_until - started


def _cpu_seconds(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system
