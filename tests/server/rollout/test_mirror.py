"""Questions are asked only while there is room; what cannot be asked is dropped and counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.work import Kept
from mlserve.server.rollout import mirror as mirrors
from mlserve.server.rollout.mirror import Mirror, Question, Result
from mlserve.server.rollout.tally import Tally


class FakeEngine:
    """An engine of four slots, as far as a mirror looks at it."""

    waiting = 0
    slots = 4
    slots_in_use = 0
    is_draining = False


class Scripted:
    """A companion that answers when it is let."""

    is_ready = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def ask(self, question: Question, deadline: Deadline) -> dict[str, Any]:
        self.asked.append(question.request_id)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return dict(question.kept.outputs)


class Setting:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.companion = Scripted()
        self.tally = Tally("version 2")
        self.told: list[Result] = []
        engine = cast("Engine", self.engine)
        self.mirror = Mirror(engine, self.companion, self.tally, self.told.append)

    def offer(self, name: str, size: int = 8) -> None:
        outputs = {"y": np.zeros(1)}
        kept = Kept("serving_default", {"x": np.zeros(1)}, outputs)
        self.mirror.offer(Question(name, "tfs", kept, size, time.monotonic()))

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what a test waits for is no event
                await asyncio.sleep(0.002)


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    made = Setting()
    try:
        yield made
    finally:
        await made.mirror.close()


@pytest.mark.parametrize(("in_use", "waiting"), [(2, 0), (0, 1)])
def test_nothing_is_asked_while_real_calls_need_the_room(in_use: int, waiting: int) -> None:
    async def check() -> None:
        async with setting() as made:
            made.engine.slots_in_use, made.engine.waiting = in_use, waiting
            made.offer("a")
            for _ in range(20):
                await asyncio.sleep(0)
                made.mirror.note_change()
            assert made.companion.asked == []
            made.engine.slots_in_use, made.engine.waiting = 1, 0
            made.mirror.note_change()
            await made.until(lambda: made.tally.counts.agrees == 1)
            assert made.companion.asked == ["a"]

    asyncio.run(check())


def test_a_question_that_finds_no_room_in_time_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "PATIENCE", 0.05)

    async def check() -> None:
        async with setting() as made:
            made.engine.slots_in_use = 4
            made.offer("a")
            await made.until(lambda: made.tally.counts.dropped == 1)
            assert made.companion.asked == []
            assert [result.word for result in made.told] == ["dropped"]

    asyncio.run(check())


def test_the_queue_is_bounded_in_number_and_in_bytes() -> None:
    async def check() -> None:
        async with setting() as made:
            made.engine.slots_in_use = 4
            for number in range(mirrors.MOST_QUESTIONS + 3):
                made.offer(str(number))
            assert made.tally.counts.dropped == 3
            assert not made.mirror.wants
        async with setting() as made:
            made.engine.slots_in_use = 4
            made.offer("a", size=mirrors.MOST_BYTES - 1)
            made.offer("b", size=2)
            made.offer("c", size=1)
            assert made.tally.counts.dropped == 1

    asyncio.run(check())


def test_one_at_a_time_and_none_after_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "ANSWER_SECONDS", 0.05)

    async def check() -> None:
        async with setting() as made:
            made.companion.may_answer.clear()
            made.offer("hangs")
            made.offer("waits")
            await made.until(lambda: made.tally.counts.failed == 1)
            assert "no answer within" in made.tally.error
            assert made.companion.asked == ["hangs"]
            assert not made.mirror.wants
            made.companion.may_answer.set()
            await made.until(lambda: made.tally.counts.agrees == 1)
            assert made.companion.asked == ["hangs", "waits"]

    asyncio.run(check())


def test_a_failure_is_logged_again_after_an_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirrors, "_QUIET", 0.0)
    monkeypatch.setattr(mirrors, "_LONGEST_REST", 0.0)

    async def check() -> None:
        async with setting() as made:
            for number, error in enumerate([OSError("one"), None, OSError("two")], 1):
                made.companion.error = error
                made.offer(f"{number}")
                await made.until(lambda number=number: len(made.told) == number)

    with caplog.at_level(logging.INFO):
        asyncio.run(check())
    said = [record.getMessage() for record in caplog.records if record.name == mirrors.__name__]
    assert said == [
        "version 2, asked beside, does not answer: OSError: one",
        "version 2, asked beside, answers again",
        "version 2, asked beside, does not answer: OSError: two",
    ]


def test_what_was_asked_before_a_new_beginning_is_not_counted() -> None:
    async def check() -> None:
        async with setting() as made:
            made.companion.may_answer.clear()
            made.offer("is asked")
            made.offer("waits")
            await made.until(lambda: made.companion.asked)
            made.mirror.begin("version 3")
            made.companion.may_answer.set()
            made.offer("after")
            await made.until(lambda: made.tally.counts.agrees)
            assert made.companion.asked == ["is asked", "after"]
            assert (made.tally.asked, made.tally.counts.compared) == ("version 3", 1)
            assert made.tally.counts.dropped == 0

    asyncio.run(check())


@pytest.mark.parametrize("error", [InferenceFailed("out of memory"), RuntimeError("odd")])
def test_an_error_is_counted_and_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with setting() as made:
            made.companion.error = error
            for number in range(3):
                made.offer(str(number))
            await made.until(lambda: made.tally.counts.failed == 3)

    asyncio.run(check())
    assert len(caplog.records) == 1
    assert "version 2, asked beside, does not answer" in caplog.text
