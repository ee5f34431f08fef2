"""`predict_many` and `infer_many`: order, bounds, errors in place, lazy items, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlserve import (
    AsyncClient,
    Client,
    Deadline,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    UsageError,
)
from mlserve.background import background_loop
from mlserve.client.answers import ServerLoad
from mlserve.client.many import USUAL_PARALLEL, capacity_of
from mlserve.client.retries import ONCE, Retries
from mlserve.errors import MlserveError
from mlserve.testing.processes import wait_until

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.fixture(scope="module")
def slow(start_echo: Any) -> Any:
    """A server that runs eight calls side by side."""
    return start_echo("--threads=8")


def calls_on(loop: asyncio.AbstractEventLoop) -> int:
    """How many calls of `infer` are under way there."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks(loop)]
    return names.count("AsyncClient.infer")


def pairs(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"a": [number], "b": [1]}


def sums(outcomes: Any) -> list[Any]:
    return [
        found if isinstance(found, MlserveError) else found["sum"].tolist() for found in outcomes
    ]


@PROTOCOLS
@pytest.mark.parametrize("parallel", [None, 1, 3])
def test_outcomes_come_in_the_order_of_the_items(
    echo: Any, protocol: str, parallel: int | None
) -> None:
    with Client(echo.endpoint(protocol)) as client:
        found = client.infer_many(pairs(30), signature="two", parallel=parallel, timeout=20)
        assert sums(found) == [[number + 1.0] for number in range(30)]
        labels = client.predict_many([b"fine"] * 5, parallel=parallel, top_k=2, timeout=20)
        assert [(found.label, len(found.scores)) for found in labels] == [("sorrel", 2)] * 5  # type: ignore[union-attr]
        assert list(client.infer_many([], parallel=parallel)) == []


def test_what_fails_stands_in_its_place(echo: Any) -> None:
    with Client(echo.grpc) as client:
        items = [{"a": [1], "b": [1]}, {"a": ["1"], "b": [1]}, {"a": [2], "b": [1]}, 5]
        found = list(client.infer_many(items, signature="two", timeout=20))  # type: ignore[list-item]
        assert [type(item).__name__ for item in found] == [
            "Outputs",
            "InvalidInput",
            "Outputs",
            "InvalidInput",
        ]
        answers = client.predict_many([b"fine", b"bad", "missing.jpg", b"fine"], timeout=20)
        kinds = [type(item) for item in answers]
    assert kinds[1:3] == [InvalidInput, UsageError]
    assert kinds[0] is kinds[3]


def test_at_most_so_many_at_once_and_items_are_taken_as_there_is_room(slow: Any) -> None:
    """The first call takes long: others pass it, but no more are taken than the window holds."""
    taken: list[int] = []

    def items() -> Iterator[dict[str, Any]]:
        for number in range(40):
            taken.append(number)
            yield {"seconds": [1.0 if number == 0 else 0.0]}

    with Client(slow.grpc) as client:
        found = client.infer_many(items(), signature="slow", parallel=2, timeout=20)
        assert taken == []
        first = next(found)
        assert not isinstance(first, MlserveError)
        assert first["done"].tolist() == [1.0]
        assert len(taken) == 8  # two at once, and what waits for the first
        assert len(list(found)) == 39
    assert len(taken) == 40


def test_calls_run_side_by_side_but_never_more_than_allowed(slow: Any) -> None:
    with ThreadPoolExecutor(1) as pool, Client(slow.grpc) as client, Client(slow.grpc) as eye:
        most, is_over = 0, threading.Event()

        def watch() -> int:
            highest = 0
            while not is_over.is_set():
                load = eye.load(timeout=20)
                assert load is not None
                highest = max(highest, load.running + load.waiting)
            return highest

        watching = pool.submit(watch)
        items = [{"seconds": [0.4]}] * 9
        outcomes = list(client.infer_many(items, signature="slow", parallel=3, timeout=20))
        is_over.set()
        most = watching.result(20)
    assert not [found for found in outcomes if isinstance(found, MlserveError)]
    assert 2 <= most <= 3


def test_many_calls_slow_down_to_what_the_server_takes(start_echo: Any) -> None:
    """One call runs and none may wait: the others are refused more often than they may ask."""
    server = start_echo("--threads=1", "--max-queue=0")
    items = [{"seconds": [0.03]} for _ in range(40)]
    twice = Retries(max_attempts=2)
    with Client(server.grpc, retries=twice) as client, Client(server.grpc, retries=ONCE) as once:
        found = list(client.infer_many(items, signature="slow", parallel=8, timeout=60))
        refused = list(once.infer_many(items, signature="slow", parallel=8, timeout=60))

    assert [item for item in found if isinstance(item, MlserveError)] == []
    assert max(len(item.retries) for item in found) >= twice.max_attempts  # type: ignore[union-attr]
    assert Overloaded in {type(item) for item in refused}, "who never retries is not made to"


def test_each_call_has_its_own_time_and_a_deadline_is_for_all(slow: Any) -> None:
    with Client(slow.grpc) as client:
        items = [{"seconds": [0.5]}] * 4
        each = list(client.infer_many(items, signature="slow", parallel=1, timeout=10))
        assert not [found for found in each if isinstance(found, MlserveError)]
        shared = Deadline.after(1.9)
        found = list(client.infer_many(items, signature="slow", parallel=1, timeout=shared))
    assert isinstance(found[-1], DeadlineExceeded)
    assert not isinstance(found[0], MlserveError)


def test_closing_the_iterator_cancels_what_runs(slow: Any) -> None:
    with Client(slow.grpc) as client:
        items = [{"seconds": [0.0]}, {"seconds": [3.0]}, {"seconds": [3.0]}]
        found = client.infer_many(items, signature="slow", parallel=3, timeout=100)
        next(found)
        assert calls_on(background_loop())
        found.close()
        wait_until(lambda: not calls_on(background_loop()))
        assert client.infer({"a": [1], "b": [1]}, signature="two", timeout=20)["sum"].tolist() == [
            2
        ]


def test_an_error_of_the_items_comes_after_the_outcomes_before_it(echo: Any) -> None:
    def items() -> Iterator[dict[str, Any]]:
        yield from pairs(3)
        raise OSError("the file ends here")

    with Client(echo.grpc) as client:
        outcomes = client.infer_many(items(), signature="two", parallel=4, timeout=20)
        found = [next(outcomes) for _ in range(3)]
        with pytest.raises(OSError, match="the file ends here"):
            next(outcomes)
    assert sums(found) == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("call", "items", "said"),
    [
        ("predict_many", "horse.jpg", "takes an iterable of what to ask about, not str"),
        ("predict_many", b"\xff\xd8", "not bytes"),
        ("predict_many", 5, "not int"),
        ("infer_many", {"x": [1]}, "not dict"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_one_thing_is_not_many(kind: Any, call: str, items: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        getattr(kind("127.0.0.1:1"), call)(items)
    assert f"write {call}([...])" in str(caught.value.hint)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"parallel": 0}, "parallel must be at least 1, not 0"),
        ({"parallel": True}, "parallel must be at least 1, not True"),
        ({"parallel": "4"}, "parallel must be at least 1, not '4'"),
        ({"timeout": -1}, "timeout must be a positive number"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_k": True}, "top_k must be at least 1, not True"),
    ],
)
def test_wrong_arguments_are_refused_at_once(kind: Any, wrong: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        kind("127.0.0.1:1").predict_many([b"x"], **wrong)


def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:1")
    client.close()
    with pytest.raises(UsageError, match="this client is closed"):
        client.infer_many([{}])


def test_without_a_server_each_item_has_its_error() -> None:
    with Client("127.0.0.1:1", model="m") as client:
        found = list(client.infer_many(pairs(3), timeout=0.5))
    assert len(found) == 3
    assert all(isinstance(item, MlserveError) for item in found)


@pytest.mark.parametrize(("slots", "wanted"), [(1, 4), (8, 32), (100, 64), (None, USUAL_PARALLEL)])
def test_the_servers_slots_say_how_many_at_once(slots: int | None, wanted: int) -> None:
    load = None if slots is None else ServerLoad(0, 0, None, 30.0, slots=slots)
    assert capacity_of(load) == wanted


@PROTOCOLS
def test_the_async_client_takes_items_from_both_kinds_of_iterables(
    echo: Any, protocol: str
) -> None:
    async def slowly() -> AsyncIterator[dict[str, Any]]:
        for item in pairs(5):
            yield item

    async def ask() -> list[list[Any]]:
        async with AsyncClient(echo.endpoint(protocol)) as client:
            return [
                sums(
                    [found async for found in client.infer_many(items, signature="two", timeout=20)]
                )
                for items in (slowly(), pairs(5), list(pairs(5)))
            ]

    assert asyncio.run(ask()) == [[[number + 1.0] for number in range(5)]] * 3


def test_on_an_event_loop_an_outcome_does_not_wait_for_the_next_item(echo: Any) -> None:
    async def ask() -> list[Any]:
        answered = asyncio.Event()

        async def items() -> AsyncIterator[dict[str, Any]]:
            for item in pairs(3):
                answered.clear()
                yield item
                await answered.wait()  # it asks again only when it has the outcome

        found = []
        async with AsyncClient(echo.grpc) as client, asyncio.timeout(20):
            async for outcome in client.infer_many(items(), signature="two", parallel=4):
                found.append(outcome)
                answered.set()
        return sums(found)

    assert asyncio.run(ask()) == [[1.0], [2.0], [3.0]]


def test_closing_the_async_iterator_ends_the_calls(slow: Any) -> None:
    async def ask() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        items = [{"seconds": [0.0]}, {"seconds": [3.0]}]
        async with AsyncClient(slow.grpc) as client:
            outcomes = client.infer_many(items, signature="slow", parallel=2, timeout=100)
            async with contextlib.aclosing(outcomes):
                await anext(outcomes)
                running = calls_on(loop)
            return running, calls_on(loop)

    assert asyncio.run(ask()) == (1, 0)


def test_an_error_of_async_items_comes_after_the_outcomes_before_it(echo: Any) -> None:
    async def items() -> AsyncIterator[Any]:
        yield {"a": [1], "b": [1]}
        yield {"a": [None], "b": [1]}
        raise OSError("gone")

    async def ask() -> list[Any]:
        async with AsyncClient(echo.grpc) as client:
            outcomes = client.infer_many(items(), signature="two", timeout=20)
            found = [await anext(outcomes) for _ in range(2)]
            with pytest.raises(OSError, match="gone"):
                await anext(outcomes)
        return found

    first, second = asyncio.run(ask())
    assert first["sum"].tolist() == [2.0]
    assert isinstance(second, InvalidInput)


@pytest.mark.server
def test_ctrl_c_ends_the_loop_and_the_process(slow: Any) -> None:
    code = (
        "import sys; from mlserve import Client\n"
        "items = [{'seconds': [0.0]}] + [{'seconds': [3.0]}] * 3\n"
        "with Client(sys.argv[1]) as client:\n"
        "    for found in client.infer_many(items, signature='slow', parallel=2, timeout=100):\n"
        "        print('first', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, slow.grpc],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        with Client(slow.grpc) as client:
            wait_until(lambda: getattr(client.load(timeout=20), "running", 0) >= 1)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in errors


@PROTOCOLS
def test_an_overloaded_server_tells_its_price_and_is_spared(start_echo: Any, protocol: str) -> None:
    """Fifty callers, of whom a server that needs 0.1 s for each call can answer ten a second."""
    server = start_echo("--threads=1")

    async def ask() -> list[Any]:
        async with AsyncClient(server.endpoint(protocol), retries=ONCE) as client:
            await client.infer({"seconds": [0.1]}, signature="slow", timeout=20)

            async def call() -> list[Any]:
                calls = (
                    client.infer({"seconds": [0.1]}, signature="slow", timeout=2) for _ in range(4)
                )
                return [(await asyncio.gather(one, return_exceptions=True))[0] for one in calls]

            found = await asyncio.gather(*(call() for _ in range(50)))
            return [outcome for outcomes in found for outcome in outcomes]

    found = asyncio.run(ask())
    refused = [each for each in found if isinstance(each, Overloaded)]
    spared = [each for each in refused if "throttled" in each.details]
    prices = [each.price for each in refused if each not in spared]
    assert spared
    assert prices
    assert all(price is not None and 0 < price <= 1 for price in prices)
