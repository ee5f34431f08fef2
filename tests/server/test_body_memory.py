"""One bound on the memory of bodies: what fits, who gives way, and that nothing stays counted."""

from __future__ import annotations

import asyncio
from threading import Thread

import pytest

from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, Overloaded, Unavailable
from mlserve.server.body_memory import PROGRESS, STALLED, BodyMemory
from mlserve.server.listen.http_body import Body
from mlserve.settings import ServerSettings


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _never() -> None:
    raise AssertionError("gave way")


def test_bodies_hold_no_more_than_the_bound() -> None:
    memory = BodyMemory(100, Clock())
    with memory.open(_never) as first, memory.open(_never) as second:
        first.take(60)
        with pytest.raises(Overloaded, match=r"no room for 41 bytes .* 60 of 100 bytes"):
            second.take(41)
        second.take(40)
        assert memory.held == 100
    assert memory.held == 0


def test_an_upload_that_has_stalled_gives_way() -> None:
    clock, gone = Clock(), list[str]()
    memory = BodyMemory(100, clock)
    stalled = memory.open(lambda: gone.append("stalled"))
    stalled.take(60)
    clock.now = STALLED / 2
    going = memory.open(lambda: gone.append("going"))
    going.take(40)
    clock.now = STALLED
    with memory.open(_never) as new:
        new.take(50)
        assert gone == ["stalled"]
        assert memory.held == 90
        with pytest.raises(Overloaded):
            stalled.take(1)
        stalled.release()
        assert memory.held == 90


def test_a_body_that_has_arrived_gives_way_to_nobody() -> None:
    clock = Clock()
    memory = BodyMemory(100, clock)
    with memory.open(_never) as whole, memory.open(_never) as new:
        whole.take(100)
        whole.finish()
        clock.now = 10 * STALLED
        with pytest.raises(Overloaded):
            new.take(1)


def test_nobody_gives_way_where_that_would_not_make_room() -> None:
    clock = Clock()
    memory = BodyMemory(100, clock)
    with memory.open(_never) as stalled, memory.open(_never) as whole, memory.open(_never) as new:
        stalled.take(30)
        whole.take(50)
        whole.finish()
        clock.now = STALLED
        with pytest.raises(Overloaded):
            new.take(51)
        assert memory.held == 80


def test_what_would_not_fit_if_it_were_alone_is_not_asked_to_come_back() -> None:
    with BodyMemory(100, Clock()).open(_never) as body:
        body.take(60)
        with pytest.raises(InputTooLarge, match="more memory to read than the 100 bytes"):
            body.take(41)


def test_an_upload_that_drips_has_stalled_too() -> None:
    clock, gone = Clock(), list[str]()
    memory = BodyMemory(10 * PROGRESS, clock)
    dripping = memory.open(lambda: gone.append("dripping"))
    going = memory.open(lambda: gone.append("going"))
    dripping.take(5 * PROGRESS)
    going.take(PROGRESS)
    for moment in range(1, 11):
        clock.now = moment * STALLED / 10
        dripping.take(1)
        going.take(PROGRESS // 10)
    going.take(PROGRESS)
    with memory.open(_never) as new:
        new.take(4 * PROGRESS)
    assert gone == ["dripping"]


def test_memory_is_given_back_when_the_last_user_is_done() -> None:
    memory = BodyMemory(100, Clock())
    body = memory.open(_never)
    with body:
        body.take(60)
        reader = body.__enter__()
    assert memory.held == 60
    reader.__exit__(None, None, None)
    assert memory.held == 0


def test_a_part_can_be_given_back() -> None:
    memory = BodyMemory(100, Clock())
    with memory.open(_never) as body:
        body.take(100)
        body.release(70)
        assert memory.held == 30
        body.take(70)
        body.release(1000)
        assert memory.held == 0


def test_threads_together_keep_to_the_bound() -> None:
    memory = BodyMemory(1000)
    most = list[int]()

    def take_and_release() -> None:
        for _ in range(500):
            with memory.open(_never) as body:
                try:
                    body.take(300)
                except Overloaded:
                    continue
                most.append(memory.held)

    threads = [Thread(target=take_and_release) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.held == 0
    assert most
    assert max(most) <= 900


@pytest.mark.parametrize(
    ("asked", "one", "bound"),
    [(None, 2**20, 2**23), (2**22, 2**20, 2**22), (50, 2**20, 2**20 + 2**16)],
)
def test_the_bound_is_never_less_than_one_request(asked: int | None, one: int, bound: int) -> None:
    assert ServerSettings(max_body_memory=asked, max_request_bytes=one).body_memory == bound


def test_who_has_left_takes_no_more() -> None:
    # A runner process asks for room for a while after its caller has left, who released all.
    async def leave() -> int:
        memory = BodyMemory(100)
        with Body(memory, Deadline.after(60)) as body:
            body.room.take(10)
        with pytest.raises(Unavailable):
            body.room.take(10)
        return memory.held

    assert asyncio.run(leave()) == 0
