"""How long a client waits before it asks again."""

from __future__ import annotations

import math
from random import Random

import pytest

from mlserve.client import Retries
from mlserve.client.call import CallIds, Trace
from mlserve.client.retries import CallState, NotSent
from mlserve.deadline import Deadline
from mlserve.errors import Overloaded, Unavailable, UsageError


def test_waits_grow_to_a_cap_and_are_no_longer_than_it() -> None:
    retries = Retries(max_attempts=100, random=Random(1))
    waits = [retries.pause(failed, Unavailable("gone")) for failed in range(1, 60)]

    assert all(0 <= wait <= 0.05 * 2**n for n, wait in enumerate(waits[:5]))
    assert max(waits) <= 1
    assert max(waits[10:]) > 0.5


def test_a_hint_comes_before_the_chance() -> None:
    pause = Retries(random=Random(1)).pause(1, Overloaded("full", retry_after=2))

    assert 2 < pause < 2.05
    assert Retries().pause(1, Unavailable("never", retry_after=math.inf)) == math.inf
    assert Retries(max_attempts=3).pause(3, Unavailable("gone")) == math.inf


def test_a_new_call_that_is_not_sent_ends_at_once_and_one_that_was_sent_waits() -> None:
    error = NotSent("not sent", hint="", retry_after=0.5)

    assert Retries().pause(0, error) == math.inf
    assert 0.5 < Retries().pause(1, error) < math.inf
    assert 0.5 < Retries().for_many().pause(0, error) < math.inf
    assert (error.kind, error.exit_code) == ("overloaded", 7)


def test_attempts_that_are_not_sent_use_up_none_of_those_allowed() -> None:
    state = CallState(Deadline.after(5.0), CallIds(Trace("1" * 32)), Retries(max_attempts=2))
    not_sent = NotSent("not sent", hint="", retry_after=0.5)
    state.begin_again(Overloaded("full"), 0.0, state.spent_so_far())
    for _ in range(10):
        assert state.pause(not_sent) < math.inf
        state.begin_again(not_sent, 0.5, state.spent_so_far())
    assert state.attempts == 2
    assert state.pause(Overloaded("full")) == math.inf


@pytest.mark.parametrize("attempts", [0, True])
def test_a_client_asks_at_least_once(attempts: int) -> None:
    with pytest.raises(UsageError, match=f"max_attempts must be at least 1, not {attempts}"):
        Retries(max_attempts=attempts)
