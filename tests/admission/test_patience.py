"""How long callers wait, as learned from simulated callers on a simulated clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.admission.callers import UNKNOWN_CALLER, Caller
from mlserve.admission.patience import PRIOR, Patience, Wait

REQUESTS = Caller("rest", "python-requests/2.32", "10.0.0.7")
CURL = Caller("rest", "curl/8.14.1", "10.0.0.8")
PATIENT = 1e6
FOREVER = Wait(PRIOR, is_known=False)
A_SECOND = Wait(pytest.approx(0.96, abs=0.01), True, pytest.approx(1.01, abs=0.06))
FIVE_SECONDS = Wait(pytest.approx(4.69, abs=0.01), True, pytest.approx(4.9, abs=0.3))

Draw = Callable[[random.Random], float]


def fixed(seconds: float) -> Draw:
    """Callers with a timeout. It begins and ends a little before or after the server sees it."""
    return lambda chance: max(chance.gauss(seconds, 0.005 * seconds), 0.0)


def one_of(*seconds: float) -> Draw:
    return lambda chance: chance.choice(seconds)


def exponential(mean: float) -> Draw:
    return lambda chance: chance.expovariate(1 / mean)


def between(shortest: float, longest: float) -> Draw:
    return lambda chance: chance.uniform(shortest, longest)


class World:
    """Callers that come to a server, 48 a second: it answers, or they have left before."""

    def __init__(self, patience: Patience | None = None, seed: int = 1) -> None:
        self.patience = patience or Patience()
        self.now = 0.0
        self._chance = random.Random(seed)

    def run(
        self, seconds: float, stand: Draw, answered_after: Draw, caller: Caller = REQUESTS
    ) -> Wait:
        until = self.now + seconds
        while self.now < until:
            self.now += self._chance.expovariate(48)
            self.call(stand(self._chance), answered_after(self._chance), caller)
        return self.patience.of(caller, self.now)

    def call(self, stands: float, answer: float, caller: Caller = REQUESTS) -> None:
        if stands < answer:
            self.patience.note_left(caller, stands, self.now)
        else:
            self.patience.note_stayed(caller, answer, self.now)

    def of(self, caller: Caller = REQUESTS, least: float = 0.0) -> Wait:
        return self.patience.of(caller, self.now, least)


def test_without_evidence_callers_wait_as_long_as_is_believed() -> None:
    assert Patience().of(REQUESTS, 0.0) == FOREVER
    assert Patience().of(REQUESTS, 0.0, least=7.0) == Wait(7.0, is_known=False)


@pytest.mark.parametrize("timeout", [0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_fixed_timeout_is_found_from_below(timeout: float, seed: int) -> None:
    wait = World(seed=seed).run(5.0, fixed(timeout), between(0.0, 3 * timeout))

    assert wait.is_known
    assert 0.85 * timeout <= wait.seconds <= timeout


def test_the_first_callers_to_leave_are_enough() -> None:
    world = World()
    for _ in range(3):
        world.call(1.0, 9.0)
    assert world.of() == FOREVER
    for _ in range(2):
        world.call(1.0, 9.0)
    world.now += 1.0

    assert world.of() == A_SECOND


def test_callers_that_wait_for_any_answer() -> None:
    wait = World().run(10.0, fixed(PATIENT), between(0.0, 9.0))

    assert not wait.is_known
    assert 7.0 < wait.seconds <= 9.0


def test_one_long_wait_is_not_yet_what_callers_stand() -> None:
    world = World()
    world.run(10.0, fixed(PATIENT), between(0.0, 0.3))
    world.call(PATIENT, 20.0)
    world.now += 2.0

    assert world.of() == FOREVER


def test_mixed_timeouts_give_the_least_that_a_fifth_of_the_callers_has() -> None:
    world = World()
    world.run(20.0, one_of(0.5, 1.0, 5.0), between(0.0, 7.0))

    assert world.of().seconds == pytest.approx(0.48, abs=0.01)
    # Of those that can be answered at all by a model that needs 0.6 s, half have a second.
    assert world.of(least=0.6)[:2] == A_SECOND[:2]
    for least in (0.0, 0.6, 1.3):
        assert world.of(least=least).longest == FIVE_SECONDS.longest
    assert world.of(least=1.3) == FIVE_SECONDS


@pytest.mark.parametrize("seed", range(5))
def test_of_exponential_callers_three_quarters_stand_it(seed: int) -> None:
    wait = World(seed=seed).run(60.0, exponential(1.0), between(0.0, 3.0))

    assert wait.is_known
    assert 0.17 < wait.seconds < 0.35  # 0.84 to 0.70 of them wait so long


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("others", "known"), [(PATIENT, False), (1.0, True)])
def test_impatient_bots_do_not_speak_for_the_rest(seed: int, others: float, known: bool) -> None:
    def stand(chance: random.Random) -> float:
        return 0.3 if chance.random() < 0.15 else others

    world = World(seed=seed)
    for _ in range(12):
        wait = world.run(5.0, stand, between(0.0, 4.0))
        assert wait.is_known is known
        assert wait.seconds >= 0.9


@pytest.mark.parametrize("seed", range(10))
def test_a_few_cancelled_calls_are_no_impatience(seed: int) -> None:
    def stand(chance: random.Random) -> float:
        return chance.uniform(0.0, 3.0) if chance.random() < 0.03 else PATIENT

    world = World(seed=seed)
    for _ in range(12):  # few wait as long as 3 s, so that one who leaves then leaves a small crowd
        assert not world.run(5.0, stand, exponential(0.3)).is_known


def test_a_call_cancelled_now_and_then_on_an_idle_server_is_no_impatience() -> None:
    world = World()
    for _ in range(40):
        world.run(3.0, fixed(PATIENT), between(0.05, 0.1))
        world.call(0.08, 9.0)
        assert not world.of().is_known


def test_longer_patience_is_followed_once_some_have_stood_more() -> None:
    world = World()
    assert world.run(30.0, fixed(1.0), between(0.0, 4.0)).seconds < 1.0

    wait = world.run(3.0, fixed(5.0), between(0.0, 8.0))

    assert wait == FIVE_SECONDS


def test_shorter_patience_is_followed_once_enough_have_left() -> None:
    world = World()
    assert world.run(30.0, fixed(5.0), between(0.0, 8.0)).seconds > 4.0

    wait = world.run(3.0, fixed(0.5), between(0.0, 8.0))

    assert wait.is_known
    assert wait.seconds == pytest.approx(0.48, abs=0.01)


def test_a_dozen_that_leave_in_a_row_are_enough() -> None:
    world = World()
    assert world.run(30.0, fixed(5.0), between(0.0, 8.0)).seconds > 4.0

    for _ in range(12):
        world.call(1.0, 9.0)
        world.run(0.5, fixed(PATIENT), between(0.0, 0.3))  # those who are answered say nothing
    world.now += 2.0

    assert world.of() == A_SECOND


def test_a_few_bots_among_those_that_wait_make_no_row() -> None:
    world = World()
    for _ in range(30):
        for _ in range(9):
            world.call(1.0, 9.0)
        world.run(2.0, fixed(PATIENT), between(0.0, 8.0))
        assert not world.of().is_known


def test_what_nobody_confirms_is_given_up() -> None:
    world = World()
    learned = world.run(30.0, fixed(1.0), between(0.0, 4.0))

    # From now on the server refuses those that would wait longer, and answers the others sooner.
    assert world.run(60.0, fixed(1.0), between(0.0, 0.8)) == learned
    assert not world.run(60.0, fixed(1.0), between(0.0, 0.8)).is_known
    # Then it learns again, as quickly as the first time.
    assert world.run(1.0, fixed(1.0), between(0.0, 4.0)) == learned


@pytest.mark.parametrize("seed", range(5))
def test_answers_just_in_time_are_no_sign_of_patience(seed: int) -> None:
    world = World(seed=seed)
    learned = world.run(30.0, fixed(1.0), between(0.0, 4.0))

    # It now aims at what it has learned: few leave, as it is seldom late.
    for _ in range(30):
        wait = world.run(2.0, fixed(1.0), between(0.8, 0.995))
        assert wait == learned
        world.call(1.0, 9.0)


@pytest.mark.parametrize("answer", [0.97, 1.0, 1.03])
def test_calls_that_are_cancelled_just_before_their_answer(answer: float) -> None:
    world = World()
    for _ in range(30):  # all wait equally long, so that all end in one bin
        assert not world.run(3.0, fixed(PATIENT), fixed(answer)).is_known
        world.call(0.98 * answer, answer)


def test_a_few_leaves_a_minute_keep_what_is_known() -> None:
    world = World()
    learned = world.run(30.0, fixed(1.0), between(0.0, 4.0))

    for _ in range(20):
        world.run(20.0, fixed(1.0), between(0.0, 0.8))
        world.call(1.0, 9.0)
        assert world.of() == learned


def test_an_idle_hour_leaves_nothing() -> None:
    world = World()
    world.run(30.0, fixed(1.0), between(0.0, 4.0))
    world.now += 3600

    assert world.of() == FOREVER


def test_those_who_never_wait_long_enough_say_nothing_of_the_others() -> None:
    world = World()
    world.run(10.0, fixed(0.5), between(0.0, 4.0))

    assert world.of(least=0.2).is_known
    assert not world.of(least=0.8).is_known
    assert world.of(least=1.6) == Wait(1.6, is_known=False)


def test_the_answer_is_never_less_than_the_least() -> None:
    world = World()
    world.run(10.0, fixed(1.0), between(0.0, 4.0))

    assert world.of(least=0.99)[:2] == (0.99, True)


def test_each_kind_of_caller_has_its_own_patience() -> None:
    world = World()
    for _ in range(40):
        world.run(0.5, fixed(1.0), between(0.0, 4.0), REQUESTS)
        world.run(0.5, fixed(3.0), between(0.0, 4.0), CURL)

    assert world.of(REQUESTS).seconds == pytest.approx(0.96, abs=0.01)
    assert world.of(CURL).seconds == pytest.approx(2.86, abs=0.01)


@pytest.mark.parametrize(
    "other",
    [
        REQUESTS._replace(address="10.9.9.9"),
        REQUESTS._replace(agent="axios/1.7", address="10.9.9.9"),
        REQUESTS._replace(token="team-b", address="10.9.9.9"),
        Caller("grpc", "grpc-python/1.66", "10.9.9.9", "team-b"),
    ],
)
def test_a_caller_not_seen_before_is_taken_for_one_like_those_most_alike(other: Caller) -> None:
    world = World()
    learned = world.run(10.0, fixed(1.0), between(0.0, 4.0))

    assert world.of(other) == learned


def test_alike_means_the_same_transport_first() -> None:
    world = World()
    for _ in range(40):
        world.run(0.5, fixed(1.0), between(0.0, 4.0), REQUESTS)
        world.run(0.5, fixed(3.0), between(0.0, 4.0), Caller("grpc", "grpc-python/1.66"))

    assert world.of(Caller("rest", "axios/1.7")).seconds == pytest.approx(0.96, abs=0.01)
    assert world.of(Caller("grpc", "grpc-go/1.60")).seconds == pytest.approx(2.86, abs=0.01)


def test_a_caller_that_was_seen_to_wait_longer_is_not_judged_by_the_others() -> None:
    world = World()
    world.run(10.0, fixed(1.0), between(0.0, 4.0), REQUESTS)
    for _ in range(6):
        world.call(PATIENT, 3.0, CURL)
    world.now += 1.0
    world.run(1.0, fixed(1.0), between(0.0, 4.0), REQUESTS)

    assert world.of(REQUESTS).is_known
    own = world.of(CURL)
    assert not own.is_known
    assert 2.5 < own.seconds <= 3.0


def test_callers_that_keep_changing_their_names_take_bounded_memory() -> None:
    world = World()
    world.run(10.0, fixed(1.0), between(0.0, 4.0))
    for number in range(20_000):
        world.now += 0.0001
        world.call(PATIENT, 0.01, Caller("rest", f"agent/{number}", f"10.1.0.{number % 250}"))

    assert len(world.patience.seen(world.now)) < 500
    assert len(world.patience._kinds) <= 500
    assert len(world.patience._lines) <= 500
    assert world.run(1.0, fixed(1.0), between(0.0, 4.0)).is_known


def test_what_is_shown_of_it_names_no_address_and_no_token() -> None:
    world = World()
    for _ in range(20):
        world.call(1.0, 9.0)
        world.call(1.0, 9.0, Caller("rest", "team's/1.0", token="team-b"))
        world.call(PATIENT, 0.1, Caller("grpc"))
    world.now += 1.0
    shown = world.patience.seen(world.now)

    alike = REQUESTS._replace(address="")
    kinds = [UNKNOWN_CALLER, Caller("grpc"), Caller("rest"), alike]
    assert [kind.caller for kind in shown] == kinds
    assert all(kind.wait.is_known for kind in shown)  # over gRPC by what is known of all
    assert [kind.left for kind in shown] == [40, 0, 40, 20]
    assert [kind.stayed for kind in shown] == [20, 20, 0, 0]


def test_the_kinds_that_most_callers_are_of_are_shown() -> None:
    world = World()
    for number in range(1, 30):
        for _ in range(4 * number):
            world.call(PATIENT, 0.3, Caller("rest", f"agent/{number}", "10.0.0.7"))
    world.now += 1.0
    agents = {kind.caller.agent for kind in world.patience.seen(world.now)}

    assert agents == {"", *(f"agent/{number}" for number in range(24, 30))}
    world.now += 3600
    assert world.patience.seen(world.now) == []


waits = st.one_of(st.floats(0.0, 200.0), st.sampled_from([0.0, 0.001, 0.5, 1.0, 30.0]))
callers = st.sampled_from([REQUESTS, CURL, Caller("grpc"), UNKNOWN_CALLER])
notes = st.lists(st.tuples(st.booleans(), callers, waits, st.floats(0.0, 40.0)), max_size=120)


@given(notes, waits)
def test_whatever_comes_the_answer_makes_sense(
    seen: list[tuple[bool, Caller, float, float]], least: float
) -> None:
    patience, now = Patience(), 0.0
    longest = max((waited for _, _, waited, _ in seen), default=0.0)
    shortest_left = min((waited for left, _, waited, _ in seen if left), default=PATIENT)
    for has_left, caller, waited, pause in seen:
        (patience.note_left if has_left else patience.note_stayed)(caller, waited, now)
        now += pause
        wait = patience.of(caller, now, least)
        assert least <= wait.seconds <= wait.longest
        assert wait.seconds <= max(longest, PRIOR, least)
        if wait.is_known:
            assert wait.seconds >= min(0.9 * shortest_left, 90.0) - 0.001
        else:
            assert wait.seconds >= PRIOR
        assert patience.of(caller, now, least) == wait  # to ask changes nothing


@pytest.mark.slow
@given(st.floats(0.01, 80.0), st.integers(5, 300), st.floats(1.05, 20.0), st.randoms())
def test_a_fixed_timeout_is_found_wherever_it_is(
    timeout: float, count: int, factor: float, chance: random.Random
) -> None:
    patience, now = Patience(), 0.0
    for _ in range(count):
        now += 0.02
        patience.note_left(REQUESTS, timeout, now)
        if chance.random() < 0.5:
            patience.note_stayed(REQUESTS, min(timeout / factor, 0.9 * timeout), now)
    wait = patience.of(REQUESTS, now + 1.0)

    assert wait.is_known
    assert 0.85 * timeout <= wait.seconds <= timeout


@given(notes)
def test_without_leaves_nothing_is_known(
    seen: list[tuple[bool, Caller, float, float]],
) -> None:
    patience, now = Patience(), 0.0
    for _, caller, waited, pause in seen:
        patience.note_stayed(caller, waited, now)
        now += pause
        assert not patience.of(caller, now).is_known
