"""Tests of the thread that stops work at its deadline."""

from __future__ import annotations

import os
import threading
import time
from functools import partial

import pytest

from mlserve.deadline import Deadline
from mlserve.watchdog import Watchdog, stopped_at

LONG = 20.0


def test_work_is_stopped_at_its_deadline_and_not_before() -> None:
    stopped = threading.Event()
    deadline = Deadline.after(0.05)
    with stopped_at(deadline, stopped.set):
        assert stopped.wait(LONG)
        assert deadline.is_expired


def test_an_earlier_deadline_is_kept_while_a_later_one_is_watched() -> None:
    dog = Watchdog()
    late, early = threading.Event(), threading.Event()
    with dog.watch(Deadline.after(LONG), late.set):
        with dog.watch(Deadline.after(0.05), early.set):
            assert early.wait(LONG)
        assert not late.is_set()


def test_work_that_has_ended_is_left_alone() -> None:
    dog = Watchdog()
    stops: list[int] = []
    next_ = threading.Event()
    with dog.watch(Deadline.after(0.05), partial(stops.append, 1)):
        """It ends at once."""
    with dog.watch(Deadline.after(0.1), next_.set):
        assert next_.wait(LONG)
    assert not stops


def test_all_work_shares_one_thread() -> None:
    dog = Watchdog()
    before = threading.active_count()
    for _ in range(100):
        with dog.watch(Deadline.after(LONG), threading.Event().set):
            assert threading.active_count() <= before + 1


def test_each_of_many_at_once_is_stopped() -> None:
    dog = Watchdog()
    stopped = [threading.Event() for _ in range(50)]

    def work(event: threading.Event, seconds: float) -> None:
        with dog.watch(Deadline.after(seconds), event.set):
            event.wait(LONG)

    threads = [
        threading.Thread(target=work, args=(event, 0.02 + 0.002 * (number * 7 % 50)))
        for number, event in enumerate(stopped)
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(event.is_set() for event in stopped)
    assert time.monotonic() - started < LONG


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
    with stopped_at(Deadline.after(LONG), threading.Event().set):
        child = os.fork()
        if child == 0:
            stopped = threading.Event()
            with stopped_at(Deadline.after(0.05), stopped.set):
                os._exit(0 if stopped.wait(LONG) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
