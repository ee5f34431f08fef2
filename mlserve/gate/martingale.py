"""A bet against exchangeability: its capital grows when scores no longer come as they did.

Each score is ranked among all before it, which gives a p-value: of exchangeable scores they are
independent and uniform. A game that is fair for uniform ones bets on each of them. By Ville's
inequality, its capital ever reaches `ALARM_AT` with a probability of at most 1 / ALARM_AT as long
as the scores are exchangeable, however long that is.

The bets are those of the Simple Jumper (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman,
"Retrain or not retrain: conformal test martingales for change-point detection", COPA 2021). Alone
it would lose its capital over a long quiet time. So the stake is spread over all starts: the n-th
score gets 1 / (n (n + 1)) of it, and what has not been staked yet is kept. A change after n scores
then costs only the time to win back about n squared.

Scores are counted in bins, between which a fair random number decides: so the state is small, and
ranks are exact for the bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ALARM_AT = 100.0
"""The capital at which there is an alarm. It begins with 1."""
BINS = 512
_EDGE = 16.0
"""The logit of the highest bin: scores of 1 - 1e-7 and above are in it."""
_JUMP = 0.01
"""The share of the capital that is spread anew before each bet."""
_SLOPES = (-1.0, 0.0, 1.0)
"""A bet multiplies by 1 + slope * (p - 1/2)."""
_FORMAT = 1


class Bet(NamedTuple):
    """What came of one score: how many there were with it, its p-value, and the capital."""

    seen: int
    p: float
    capital: float
    is_alarm: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "p": round(self.p, 6),
            "capital": float(f"{self.capital:.6g}"),
            "is_alarm": self.is_alarm,
        }


def bin_of(score: float | None) -> int:
    """Return the bin of a score, 0 to 1, by its logit. None, for no score, is below all."""
    if score is None or score <= 0:
        return 0
    logit = _EDGE if score >= 1 else math.log(score / (1 - score))
    place = (min(max(logit, -_EDGE), _EDGE) + _EDGE) / (2 * _EDGE)
    return 1 + min(int(place * (BINS - 1)), BINS - 2)


@dataclass(slots=True)
class Martingale:
    """The game so far: how many scores each bin has had, and the capital behind each bet.

    It stands still once there is an alarm, until it is begun anew.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BINS)
    staked: list[float] = field(default_factory=lambda: [0.0] * len(_SLOPES))
    bets: int = 0
    is_alarm: bool = False

    @classmethod
    def after(cls, bins: Iterable[int]) -> Martingale:
        """Return a game that begins after these scores, which it holds the next ones to."""
        game = cls()
        for number in bins:
            game.counts[number] += 1
        return game

    @property
    def capital(self) -> float:
        """The capital, of which a part may not have been staked yet."""
        return sum(self.staked) + 1 / (self.bets + 1)

    def bet(self, number: int, fair: float) -> Bet:
        """Bet on the score of that bin; `fair` is a random number from 0 to 1."""
        above, equal = sum(self.counts[number + 1 :]), self.counts[number] + 1
        self.counts[number] += 1
        seen = sum(self.counts)
        p = (above + fair * equal) / seen
        if not self.is_alarm:
            self._stake(p)
            self.is_alarm = self.capital >= ALARM_AT
        return Bet(seen, p, self.capital, self.is_alarm)

    def _stake(self, p: float) -> None:
        self.bets += 1
        fresh = 1 / (self.bets * (self.bets + 1)) / len(_SLOPES)
        spread = _JUMP * sum(self.staked) / len(_SLOPES) + fresh
        self.staked = [
            ((1 - _JUMP) * amount + spread) * (1 + slope * (p - 0.5))
            for amount, slope in zip(self.staked, _SLOPES, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "counts": self.counts,
            "staked": self.staked,
            "bets": self.bets,
            "is_alarm": self.is_alarm,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Martingale:
        """Read the output of `to_json`. Raises KeyError, TypeError and ValueError."""
        counts, staked = [int(n) for n in data["counts"]], [float(x) for x in data["staked"]]
        if data["format"] != _FORMAT or len(counts) != BINS or len(staked) != len(_SLOPES):
            raise ValueError("it is of another version of mlserve")
        return cls(counts, staked, int(data["bets"]), data["is_alarm"] is True)
