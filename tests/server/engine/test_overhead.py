"""What the event loop takes of the machine, as the engine learns it."""

from __future__ import annotations

import asyncio
import time

import pytest

from mlserve.server.engine import overhead
from mlserve.server.engine.overhead import Overhead
from mlserve.system import usable_cpus


async def parts_of_a_loop(*, is_busy: bool, looks: int) -> list[float]:
    told: list[float] = []
    measured = Overhead(told.append)
    try:
        while len(told) < looks:
            if is_busy:
                began = time.thread_time()
                while time.thread_time() - began < 0.02:
                    pass
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(0.01)
    finally:
        measured.close()
    return told


@pytest.mark.slow
def test_a_busy_loop_takes_a_cpu_and_an_idle_one_next_to_nothing() -> None:
    busy = asyncio.run(parts_of_a_loop(is_busy=True, looks=6))
    idle = asyncio.run(parts_of_a_loop(is_busy=False, looks=2))
    assert busy[0] <= 1 / usable_cpus() / 8 + 0.01, "it comes nearer with each look"
    assert max(busy) <= 1 / usable_cpus() + 0.01
    assert max(idle) < busy[-1]


def test_nothing_is_told_once_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def closed() -> list[float]:
        told: list[float] = []
        first = asyncio.Event()

        def note(part: float) -> None:
            told.append(part)
            first.set()

        measured = Overhead(note)
        await first.wait()
        measured.close()
        told.clear()
        await asyncio.sleep(0.05)
        return told

    monkeypatch.setattr(overhead, "_EVERY", 0.01)
    assert asyncio.run(closed()) == []
