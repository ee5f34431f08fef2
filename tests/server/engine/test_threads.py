"""The threads that run calls: what follows is theirs, what has ended is told on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlserve.server.engine import threads as module
from mlserve.server.engine.threads import Task, WorkerThreads


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was run, by the name of its thread; a work is a function here."""
    ran: list[tuple[str, Any]] = []

    def run(works: Sequence[Callable[[], Any]]) -> list[int]:
        ran.extend((threading.current_thread().name, work()) for work in works)
        return [len(works)]

    monkeypatch.setattr(module, "run_works", run)
    return ran


def a_task(work: Any, done: Any, follow: Any = lambda _: None) -> Task:
    return Task((work,), follow, done)


def test_a_thread_goes_on_with_what_follows_before_anyone_is_told(seen: list[Any]) -> None:
    told: list[Any] = []

    async def run() -> None:
        threads, loop = WorkerThreads(2), asyncio.get_running_loop()
        ended, blocked = loop.create_future(), threading.Event()
        second = a_task(blocked.set, ended.set_result)
        threads.submit(a_task(lambda: 1, told.append, lambda sizes: second))
        assert blocked.wait(10), "the event loop is blocked here, and the second ran all the same"
        assert not told
        assert await ended == [1]
        assert told == [[1]]
        threads.close()
        threads.join()

    asyncio.run(run())
    assert [name for name, _ in seen] == ["mlserve-run_0"] * 2


def test_there_are_no_more_threads_than_were_busy_at_once(seen: list[Any]) -> None:
    async def run() -> None:
        threads = WorkerThreads(3)
        for _ in range(5):
            ended = asyncio.get_running_loop().create_future()
            threads.submit(a_task(lambda: 1, ended.set_result))
            await ended
        assert len(threads._threads) == 1
        go, both = threading.Event(), [asyncio.get_running_loop().create_future() for _ in "ab"]
        for future in both:
            threads.submit(a_task(go.wait, future.set_result))
        go.set()
        await asyncio.gather(*both)
        assert len(threads._threads) == 2
        threads.close()
        threads.join()

    asyncio.run(run())


def test_an_error_of_batching_is_told_and_the_thread_lives_on(seen: list[Any]) -> None:
    def fail() -> None:
        raise MemoryError("no room for the batch")

    async def run() -> None:
        threads, loop = WorkerThreads(1), asyncio.get_running_loop()
        for work, expected in ((fail, MemoryError), (lambda: 1, list)):
            ended = loop.create_future()
            threads.submit(a_task(work, ended.set_result))
            assert isinstance(await ended, expected)
        threads.close()
        threads.join()

    asyncio.run(run())


def test_a_fault_in_taking_the_next_keeps_no_caller_waiting(
    seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise KeyError("a slot")

    async def run() -> None:
        threads, loop = WorkerThreads(1), asyncio.get_running_loop()
        for follow in (fail, lambda _: None):
            ended = loop.create_future()
            threads.submit(a_task(lambda: 1, ended.set_result, follow))
            assert await ended == [1]
        threads.close()
        threads.join()

    asyncio.run(run())
    assert "could not take the next call" in caplog.text


def test_a_closed_thread_takes_nothing_more(seen: list[Any]) -> None:
    """What waits has no caller any more, and the process would not end before its deadlines."""

    async def run() -> None:
        threads, ended = WorkerThreads(1), asyncio.get_running_loop().create_future()
        go, next_ = threading.Event(), a_task(lambda: 2, lambda _: None)
        threads.submit(a_task(go.wait, ended.set_result, lambda _: next_))
        threads.close()
        go.set()
        assert await ended == [1]
        threads.join()

    asyncio.run(run())
    assert len(seen) == 1


def test_without_more_threads_those_there_are_do_all(
    seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        threads, loop = WorkerThreads(2), asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            refused = loop.create_future()
            threads.submit(a_task(lambda: 1, refused.set_result))
            assert isinstance(await refused, RuntimeError), "the caller is told"
        go, both = threading.Event(), [loop.create_future() for _ in "ab"]
        threads.submit(a_task(go.wait, both[0].set_result))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            threads.submit(a_task(lambda: 1, both[1].set_result))
        go.set()
        assert await asyncio.gather(*both) == [[1], [1]]
        threads.close()
        threads.join()

    asyncio.run(run())
    assert {name for name, _ in seen} == {"mlserve-run_0"}


def test_a_thread_outlives_its_event_loop(seen: list[Any]) -> None:
    go = threading.Event()

    async def run() -> WorkerThreads:
        threads = WorkerThreads(1)
        threads.submit(a_task(go.wait, pytest.fail))
        return threads

    threads = asyncio.run(run())
    go.set()
    threads.close()
    threads.join()
    assert not any(thread.is_alive() for thread in threads._threads)
