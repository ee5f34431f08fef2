"""The alarm: seldom without cause, soon with one, and the same after a restart."""

from __future__ import annotations

import json
import random

from mlserve.gate.martingale import ALARM_AT, BINS, Martingale, bin_of


def scores(chance: random.Random, count: int, middle: float = 2.5) -> list[int]:
    """Bins of scores whose logits lie around the middle."""
    return [BINS // 2 + round(16 * chance.gauss(middle, 1)) for _ in range(count)]


def bets(game: Martingale, numbers: list[int], chance: random.Random) -> int | None:
    """Return after how many bets there is an alarm."""
    for done, number in enumerate(numbers, start=1):
        if game.bet(number, chance.random()).is_alarm:
            return done
    return None


def test_exchangeable_scores_seldom_alarm() -> None:
    chance = random.Random(4)
    alarms = sum(
        bets(Martingale.after(scores(chance, 100)), scores(chance, 150), chance) is not None
        for _ in range(200)
    )
    assert alarms <= 200 / ALARM_AT + 4  # three standard errors


def test_a_change_alarms_even_after_a_long_quiet_time() -> None:
    chance = random.Random(5)
    game = Martingale()
    assert bets(game, scores(chance, 5000), chance) is None
    after = bets(game, scores(chance, 1000, middle=1.0), chance)
    assert after is not None
    assert after < 200
    # It lasts: usual scores do not take it back.
    assert game.bet(scores(chance, 1)[0], 0.5).is_alarm


def test_a_line_that_is_unlike_the_holdout_alarms() -> None:
    chance = random.Random(6)
    game = Martingale.after(scores(chance, 300))
    after = bets(game, scores(chance, 300, middle=4.5), chance)
    assert after is not None
    assert after < 60


def test_the_state_survives_a_restart() -> None:
    chance = random.Random(7)
    numbers = scores(chance, 60)
    game = Martingale()
    for number in numbers[:30]:
        game.bet(number, 0.4)
    again = Martingale.from_json(json.loads(json.dumps(game.to_json())))
    for number in numbers[30:]:
        assert game.bet(number, 0.4) == again.bet(number, 0.4)


def test_bins_rise_with_the_score() -> None:
    given = [None, 0.0, 1e-9, 0.1, 0.5, 0.9, 0.99, 0.999, 1 - 1e-9, 1.0, 7.0]
    found = [bin_of(score) for score in given]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, BINS - 1)
