"""The rule of the throttle, on a clock of its own: who is spared, how much, and for how long."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlserve.client.budgets import FORGOTTEN_AFTER, Budgets
from mlserve.client.endpoint import Connection
from mlserve.client.throttle import FULL, Sent, Throttle
from mlserve.errors import Overloaded

ENDPOINT = "127.0.0.1:1"
TIMEOUT = 5.0
START = 1000.0
"""A time on the clock, in seconds."""
_SERVED_PER_SECOND = 300.0
_ROUND_TRIP = 0.003


@pytest.fixture
def throttle(tmp_path: Path) -> Throttle:
    return throttle_at(tmp_path)


def throttle_at(folder: Path, model: str = "m", **options: Any) -> Throttle:
    """A throttle as another process would have it that keeps the file in the same folder."""
    endpoint = options.pop("endpoint", ENDPOINT)
    return Throttle(Connection.to(endpoint, **options), model, Budgets(str(folder / "file")))


def refusal(price: float | None = None, retry_after: float | None = None) -> Overloaded:
    error = Overloaded("full", retry_after=retry_after)
    error.price = price
    return error


def is_sent(throttle: Throttle, now: float, timeout: float = TIMEOUT) -> bool:
    """Whether the throttle sends a call, which is never answered."""
    try:
        throttle.send(timeout, now)
    except Overloaded:
        return False
    return True


def refuse(throttle: Throttle, now: float, times: int = 200, price: float | None = None) -> None:
    """Have so many calls refused that were sent at once."""
    sent = [throttle.send(TIMEOUT, now) for _ in range(times)]
    for call in sent:
        throttle.refused(call, refusal(price), now)


@dataclass(slots=True)
class Counts:
    """What became of the calls of one period."""

    offered: int = 0
    sent: int = 0
    accepted: int = 0

    @property
    def spared(self) -> int:
        return self.offered - self.sent


@dataclass
class Server:
    """A server which serves so many calls a second and refuses those that would wait 1 s.

    `serves` is that number at a time since the start.
    """

    throttle: Throttle
    serves: Callable[[float], float] = lambda _since: _SERVED_PER_SECOND
    tells_price: bool = False
    now: float = START
    _busy_until: float = START
    _answers: list[tuple[float, int, bool, Sent]] = field(default_factory=list)
    _number: Any = field(default_factory=count)

    def load(self, rate: float, seconds: float) -> Counts:
        """Offer calls at random, `rate` a second, and return what became of them."""
        counts, chance, end = Counts(), Random(7), self.now + seconds
        while (now := self.now + chance.expovariate(rate)) < end:
            self.now = now
            self._answer(now)
            counts.offered += 1
            try:
                sent = self.throttle.send(TIMEOUT, now)
            except Overloaded:
                continue
            counts.sent += 1
            counts.accepted += self._serve(sent)
        self.now = end
        return counts

    def _serve(self, sent: Sent) -> bool:
        serves = self.serves(self.now - START)
        begins = max(self._busy_until, self.now)
        is_accepted = serves > 0 and begins - self.now < 1
        ends = self.now
        if is_accepted:
            ends = self._busy_until = begins + 1 / serves
        heapq.heappush(self._answers, (ends + _ROUND_TRIP, next(self._number), is_accepted, sent))
        return is_accepted

    def _answer(self, now: float) -> None:
        while self._answers and self._answers[0][0] <= now:
            at, _, is_accepted, sent = heapq.heappop(self._answers)
            if is_accepted:
                self.throttle.accepted(sent, at)
            else:
                self.throttle.refused(sent, refusal(0.9 if self.tells_price else None), at)


def test_a_server_that_refuses_nothing_gets_every_call(throttle: Throttle, tmp_path: Path) -> None:
    sent = [throttle.send(TIMEOUT, START) for _ in range(5000)]  # at once, and none is answered
    for call in sent:
        throttle.accepted(call, START + 1)
    assert is_sent(throttle, START + 1)
    assert not list(tmp_path.iterdir()), "nothing is written until a call is refused"


@pytest.mark.parametrize("times", [3, 10])
def test_twice_as_many_calls_are_sent_as_are_accepted(throttle: Throttle, times: int) -> None:
    server = Server(throttle)
    server.load(times * _SERVED_PER_SECOND, 2)
    counts = server.load(times * _SERVED_PER_SECOND, 4)

    assert counts.accepted == pytest.approx(4 * _SERVED_PER_SECOND, rel=0.03), "it is kept busy"
    assert counts.sent == pytest.approx(2 * counts.accepted, rel=0.05)


@pytest.mark.parametrize("times", [3, 10])
def test_a_tenth_more_calls_are_sent_if_the_server_tells_its_price(
    throttle: Throttle, times: int
) -> None:
    server = Server(throttle, tells_price=True)
    server.load(times * _SERVED_PER_SECOND, 2)
    counts = server.load(times * _SERVED_PER_SECOND, 4)

    assert counts.accepted == pytest.approx(4 * _SERVED_PER_SECOND, rel=0.03), "it is kept busy"
    assert counts.sent == pytest.approx(1.1 * counts.accepted, rel=0.05)


def test_up_to_twice_what_the_server_can_do_every_call_is_sent(throttle: Throttle) -> None:
    server = Server(throttle)
    assert server.load(1.8 * _SERVED_PER_SECOND, 5).spared == 0


@pytest.mark.parametrize("tells_price", [False, True])
def test_once_the_load_has_gone_every_call_is_sent(throttle: Throttle, tells_price: bool) -> None:
    server = Server(throttle, tells_price=tells_price)
    assert server.load(10 * _SERVED_PER_SECOND, 5).spared > 5000
    assert server.load(0.5 * _SERVED_PER_SECOND, 0.1).spared <= 5
    assert server.load(0.5 * _SERVED_PER_SECOND, 5).spared == 0


def test_a_server_that_accepts_nothing_is_asked_all_the_same(throttle: Throttle) -> None:
    server = Server(throttle, lambda since: 0 if since < 10 else 2000)
    server.load(1000, 5)
    assert 5 <= server.load(1000, 5).sent <= 15, "about two calls a second"
    assert server.load(1000, 1).spared < 600, "it is noticed within half a second"
    assert server.load(1000, 5).spared == 0


def test_a_model_that_was_slow_for_a_while(throttle: Throttle) -> None:
    slow = lambda since: 100 if 2 < since < 8 else 600  # noqa: E731
    server = Server(throttle, slow, tells_price=True)
    assert server.load(500, 2).spared == 0
    assert server.load(500, 6).spared > 1500
    server.load(500, 1)  # what was accepted before still takes a second
    assert server.load(500, 1).spared < 200, "it is noticed within half a second"
    assert server.load(500, 3).spared == 0


def test_callers_that_ask_rarely_are_never_spared(throttle: Throttle) -> None:
    for step in range(500):
        sent = throttle.send(TIMEOUT, START + step / 2)
        throttle.refused(sent, refusal(), START + step / 2)


def test_after_ten_seconds_without_a_refusal_there_is_no_reason_to_spare(
    throttle: Throttle,
) -> None:
    refuse(throttle, START)
    assert not is_sent(throttle, START)
    later = START + FORGOTTEN_AFTER
    assert [is_sent(throttle, later) for _ in range(500)] == [True] * 500


def test_a_high_price_says_at_once_that_most_are_refused(throttle: Throttle) -> None:
    refuse(throttle, START, 1, price=0.95)
    assert sum(is_sent(throttle, START) for _ in range(500)) == int(FULL * 2 * 0.05)
    accepted = Sent(throttle.send(TIMEOUT, START + 1).key, is_paid=True)
    throttle.accepted(accepted, START + 1)
    assert [is_sent(throttle, START + 1) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("price", [0.0, 0.3, 0.5])
def test_a_low_price_spares_nobody(throttle: Throttle, price: float) -> None:
    refuse(throttle, START, 1, price)
    assert all(is_sent(throttle, START) for _ in range(500))


def test_only_calls_of_one_kind_are_spared(tmp_path: Path) -> None:
    refuse(throttle_at(tmp_path), START)
    assert not is_sent(throttle_at(tmp_path), START)
    assert not is_sent(throttle_at(tmp_path), START, TIMEOUT * 1.2)
    for other in (
        throttle_at(tmp_path, "another"),
        throttle_at(tmp_path, priority="critical"),
        throttle_at(tmp_path, token="t"),
        throttle_at(tmp_path, endpoint="127.0.0.1:2"),
        throttle_at(tmp_path, endpoint="http://127.0.0.1:1"),
    ):
        assert is_sent(other, START)
    assert is_sent(throttle_at(tmp_path), START, TIMEOUT * 10)


def test_the_error_says_that_nothing_was_sent_and_when_to_come_back(throttle: Throttle) -> None:
    refuse(throttle, START - 0.5)
    with pytest.raises(Overloaded) as caught:
        throttle.send(TIMEOUT, START - 0.4)
    assert caught.value.message == (
        f"the call was not sent: the server at {ENDPOINT} refuses most calls of its kind now, the "
        "last one 0.1 s ago"
    )
    assert caught.value.retry_after == pytest.approx(0.4), "two a second, and a tenth has passed"
    assert caught.value.hint == (
        "try again in 0.4 s, or with fewer requests at once; to send every call: throttle=False"
    )

    sent = throttle.send(TIMEOUT, START)
    throttle.refused(sent, refusal(price=0.985, retry_after=2.5), START)
    with pytest.raises(Overloaded, match="refuses 98% of the calls of its kind now") as caught:
        throttle.send(TIMEOUT, START + 0.01)
    assert caught.value.retry_after == pytest.approx(2.49)
    assert caught.value.to_json()["throttled"] is True


def test_a_server_that_never_wants_to_be_asked_again(throttle: Throttle) -> None:
    sent = [throttle.send(TIMEOUT, START) for _ in range(100)]
    for call in sent:
        throttle.refused(call, refusal(retry_after=float("inf")), START)
    with pytest.raises(Overloaded) as caught:
        throttle.send(TIMEOUT, START)
    assert caught.value.retry_after == 60
