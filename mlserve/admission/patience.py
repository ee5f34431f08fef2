"""How long callers wait that send no deadline, learned from those who left and those who stayed.

A caller that hangs up before its answer says how long it waits. One that takes its answer says that
it waits at least so long. From both, a survival curve (`survival`) is kept for each kind of caller.
A kind is a token, a transport, a user agent and an address. Above it are coarser kinds, up to all
callers. A kind that has seen too little says nothing, and a coarser one speaks for it.

Nothing here reads a clock: the caller passes the time, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from math import inf
from typing import NamedTuple

from mlserve.admission.callers import UNKNOWN_CALLER, Caller
from mlserve.admission.survival import Survival, place_of

PAST = 1.12
"""Who has waited so many times longer than a guess does not leave then: waits are told apart by a
tenth."""
PRIOR = 1.0
"""Seconds that callers are believed to wait before anything is known of them."""
_MOST_KINDS = 500
_MOST_SHOWN = 8


class Wait(NamedTuple):
    """How long callers of one kind wait, as seen.

    Nearly all of them wait `seconds`. `is_known` says that some have left after that: otherwise
    they are known to wait at least so long, and perhaps much longer. `longest` is the same of the
    most patient: hardly any wait much longer. It is infinite if that is not known.
    """

    seconds: float
    is_known: bool
    longest: float = inf


class SeenKind(NamedTuple):
    """A kind of caller that has been seen, how long it waits, and from how many that is known.

    An empty field of `caller` stands for any. `left` and `stayed` count all that were seen, however
    long ago.
    """

    caller: Caller
    wait: Wait
    left: int
    stayed: int


class Patience:
    """What is known of how long each kind of caller waits. It is not safe for threads by itself."""

    def __init__(self) -> None:
        self._kinds: dict[Caller, Survival] = {UNKNOWN_CALLER: Survival()}
        self._lines: dict[Caller, tuple[Survival, ...]] = {}
        """The kinds of each caller, the most specific first."""

    def note_left(self, caller: Caller, waited: float, now: float) -> None:
        """Take note that such a caller left after that many seconds, without its answer."""
        self._note(caller, ~place_of(waited), now)

    def note_stayed(self, caller: Caller, waited: float, now: float) -> None:
        """Take note that such a caller took its answer after that many seconds."""
        self._note(caller, place_of(waited), now)

    def of(self, caller: Caller, now: float, least: float = 0.0) -> Wait:
        """Return how long such callers wait, of those that wait at least `least` seconds.

        `least` is what the answer takes on an idle server: callers that leave sooner can never be
        answered, and say nothing of the others.
        """
        place, stood = place_of(least), 0.0
        for survival in self._lines.get(caller) or self._line(caller):
            reading = survival.read(place, now)
            if reading is None:
                continue
            # A coarser kind has no say where this caller's own has been seen to wait longer.
            if reading.cliff is not None and reading.cliff >= stood:
                longest = max(reading.longest, least)
                return Wait(max(reading.cliff, least), is_known=True, longest=longest)
            stood = max(stood, reading.stood)
        return Wait(max(stood, PRIOR, least), is_known=False)

    def seen(self, now: float) -> list[SeenKind]:
        """Return the kinds seen lately, coarse ones before their finer ones, and at most eight.

        None of them has an address or the name of a token: this is shown to other callers.
        """
        shown = [kind for kind in self._kinds if not kind.address and not kind.token]
        most = nlargest(_MOST_SHOWN, shown, key=lambda kind: self._kinds[kind].count)
        curves = [(kind, self._kinds[kind]) for kind in sorted(most)]
        return [
            SeenKind(kind, self.of(kind, now), survival.left, survival.stayed)
            for kind, survival in curves
            if (reading := survival.read(0, now)) is not None and reading.stood
        ]

    def _note(self, caller: Caller, note: int, now: float) -> None:
        for survival in self._lines.get(caller) or self._line(caller):
            survival.note(note, now)

    def _line(self, caller: Caller) -> tuple[Survival, ...]:
        """Return the kinds of a caller not seen before, the most specific first."""
        kinds = dict.fromkeys(_kinds_of(caller))
        if len(self._kinds) + len(kinds) > _MOST_KINDS:
            self._make_room()
        line = tuple(self._kinds.setdefault(kind, Survival()) for kind in kinds)
        self._lines[caller] = line
        return line

    def _make_room(self) -> None:
        """Forget the half of the kinds that were last seen longest ago."""
        newest = sorted(self._kinds, key=lambda kind: self._kinds[kind].noted_at, reverse=True)
        kept = {UNKNOWN_CALLER, *newest[: _MOST_KINDS // 2]}
        self._kinds = {kind: survival for kind, survival in self._kinds.items() if kind in kept}
        self._lines.clear()


def _kinds_of(caller: Caller) -> Iterator[Caller]:
    """Yield the kinds that a caller belongs to, the most specific first. Some may be the same."""
    yield caller
    yield caller._replace(address="")
    yield Caller(transport=caller.transport, token=caller.token)
    yield Caller(transport=caller.transport)
    yield UNKNOWN_CALLER
