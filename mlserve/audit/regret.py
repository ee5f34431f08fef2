"""What a server's last decisions cost, beside those of a scheduler that knows everything.

The recorded calls are run again on a clock of its own, twice: through the admission code that made
the decisions (`admission.replay`), and through a scheduler that knows how long each call takes
(`admission.clairvoyant`). In both, the server is the one that the recording describes, and a call
that was not run takes what was estimated for it.

A caller that left is one that waits so long and no longer. One that sets no deadline and did not
leave is taken to be as patient as those of its kind that did. The recording begins in the middle:
what ran and waited before it is not in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from mlserve.admission.admission import Admission
from mlserve.admission.callers import Caller
from mlserve.admission.clairvoyant import clairvoyant
from mlserve.admission.estimates import CostKey
from mlserve.admission.patience import Patience
from mlserve.admission.recording import Decision, Recording
from mlserve.admission.replay import Arrival, Call, replay
from mlserve.admission.verdicts import Outcome, Refusal
from mlserve.errors import InvalidInput

_UNFIT = (Refusal.DRAINING,)
"""Refusals that no admission decides: the calls are left out."""
_TAUGHT = 8
"""Times that the replay is told what the server knew when the recording began."""


@dataclass(frozen=True, slots=True)
class Work:
    """Some calls, and the seconds of the whole server that they took."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the calls of a recording, and what would have under other decisions.

    `calls` arrived within `seconds`, and have ended. `refused` were turned away on arrival and
    `taken_out` of the queue, each by reason. `answered`, `in_vain` and `failed` were run: of those
    in vain, the answer came too late or the caller had left. `unfinished` and `left_out` calls do
    not count: they still ran, or came while the server was stopping.

    `clairvoyant` is how many calls the scheduler that knows all would have answered. Of those not
    answered by the server it would have answered `missed`, and of the others not `given_up`.
    `replayed` is how many the server's own admission answers in the replay.
    """

    seconds: float
    calls: int
    answered: Work
    failed: Work
    in_vain: Work
    refused: Mapping[Refusal, int]
    taken_out: Mapping[Refusal, int]
    unfinished: int
    left_out: int
    clairvoyant: int
    missed: int
    given_up: int
    replayed: int

    @property
    def regretted(self) -> int:
        """How many calls more the scheduler that knows all would have answered; 0 for fewer."""
        return max(0, self.clairvoyant - self.answered.calls)

    @property
    def regret(self) -> float:
        """The part of what could have been answered that was not, from 0 to 1."""
        return self.regretted / self.clairvoyant if self.regretted else 0.0

    @property
    def wasted(self) -> float:
        """The part of the server's work that was in vain, from 0 to 1."""
        spent = self.answered.seconds + self.failed.seconds + self.in_vain.seconds
        return self.in_vain.seconds / spent if spent else 0.0

    @property
    def busy(self) -> float:
        """The part of the time in which the server worked, from 0 to 1."""
        spent = self.answered.seconds + self.failed.seconds + self.in_vain.seconds
        return spent / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return all of it as data."""
        return {
            "seconds": round(self.seconds, 3),
            "calls": self.calls,
            "busy": round(self.busy, 4),
            "answered": self.answered.calls,
            "failed": self.failed.calls,
            "in_vain": {"calls": self.in_vain.calls, "share_of_work": round(self.wasted, 4)},
            "refused": dict(self.refused),
            "taken_out": dict(self.taken_out),
            "unfinished": self.unfinished,
            "left_out": self.left_out,
            "clairvoyant": {
                "answered": self.clairvoyant,
                "missed": self.missed,
                "given_up": self.given_up,
            },
            "replayed": {"answered": self.replayed},
            "regret": round(self.regret, 4),
        }


def audit(recording: Recording) -> Audit:
    """Return what the decisions cost. Raises InvalidInput for a recording that tells nothing."""
    decisions = [each for each in recording.decisions if each.why not in _UNFIT]
    if not decisions:
        raise InvalidInput(
            "there is no call that admission decided on",
            hint="ask for an audit once the server has had some load",
        )
    arrivals = _arrivals(recording, decisions)
    best = [at is not None for at in clairvoyant(arrivals)]
    again = replay(arrivals, _as_it_was(recording, decisions))
    fates = [
        _Fate(decision, could, call.is_answered)
        for decision, could, call in zip(decisions, best, again, strict=True)
        if _is_over(decision)
    ]
    over = [fate.decision for fate in fates]
    ran = {outcome: [each for each in over if each.outcome is outcome] for outcome in Outcome}
    out = [each for each in over if each.outcome is None]
    return Audit(
        seconds=_length(decisions),
        calls=len(over),
        answered=_work(ran[Outcome.ANSWERED]),
        failed=_work(ran[Outcome.FAILED]),
        in_vain=_work([*ran[Outcome.LATE], *ran[Outcome.GONE]]),
        refused=_by_reason([each for each in out if not each.is_let_in]),
        taken_out=_by_reason([each for each in out if each.is_let_in]),
        unfinished=len(decisions) - len(over),
        left_out=len(recording.decisions) - len(decisions),
        clairvoyant=sum(fate.could for fate in fates),
        missed=sum(fate.could and not fate.was for fate in fates),
        given_up=sum(fate.was and not fate.could for fate in fates),
        replayed=sum(fate.was_again for fate in fates),
    )


class _Fate(NamedTuple):
    """A call, and whether it was answered by the clairvoyant scheduler and in the replay."""

    decision: Decision
    could: bool
    was_again: bool

    @property
    def was(self) -> bool:
        """Whether the server answered it."""
        return self.decision.outcome is Outcome.ANSWERED


class _Demands:
    """How long calls take, as far as the recording tells."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        kinds: dict[CostKey, list[float]] = {}
        for decision in decisions:
            if decision.demand is not None:
                kinds.setdefault(decision.kind, []).append(decision.demand)
        self._kinds = {kind: sum(seen) / len(seen) for kind, seen in kinds.items()}
        every = [demand for seen in kinds.values() for demand in seen]
        every = every or [each.mean for each in decisions if each.mean is not None]
        if not every:
            raise InvalidInput(
                f"the recording has {len(decisions)} calls, and none has been run: there is "
                "nothing to compare",
                hint="ask for an audit once the server has had some load",
            )
        self._usual = sum(every) / len(every)

    def of(self, decision: Decision) -> float:
        """Return what the call took, or else would have taken by all that is known."""
        if decision.demand is not None:
            return decision.demand
        if decision.mean is not None:
            return decision.mean
        return self._kinds.get(decision.kind, self._usual)


class _Waits:
    """How long callers wait that set no deadline, as far as the recording tells."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        seen: dict[Caller | None, list[float]] = {}
        for decision in decisions:
            if (waited := _left_after(decision)) is not None and not decision.is_asked:
                seen.setdefault(decision.caller, []).append(waited)
                seen.setdefault(None, []).append(waited)
        self._usual = {caller: median(waits) for caller, waits in seen.items()}

    def of(self, decision: Decision) -> float:
        """Return how long the caller waits from its arrival on."""
        if (waited := _left_after(decision)) is not None:
            return waited
        if decision.is_asked:
            return math.inf
        usual = self._usual.get(decision.caller) or self._usual.get(None, math.inf)
        if decision.due_at < decision.expires_at:
            usual = decision.due_at - decision.decided_at
        stayed = 0.0 if decision.ended_at is None else decision.ended_at - decision.decided_at
        return max(usual, stayed, 0.0)


def _left_after(decision: Decision) -> float | None:
    """Return after how many seconds the caller left; None if it stayed."""
    left_at = decision.out_at if decision.why is Refusal.GONE else decision.left_at
    return None if left_at is None else max(0.0, left_at - decision.decided_at)


def _arrivals(recording: Recording, decisions: Sequence[Decision]) -> list[Arrival]:
    """Return the calls as they arrived, the first at 0. Raises InvalidInput."""
    start = decisions[0].decided_at
    demands, waits = _Demands(decisions), _Waits(decisions)
    return [
        Arrival(
            at=decision.decided_at - start,
            kind=decision.kind,
            demand=demands.of(decision),
            timeout=max(0.0, decision.expires_at - decision.decided_at),
            is_asked=decision.is_asked,
            patience=waits.of(decision),
            caller=decision.caller,
            priority=decision.priority,
            width=recording.server.widths.get(decision.kind.model),
            held=decision.held,
        )
        for decision in decisions
    ]


def _as_it_was(recording: Recording, decisions: Sequence[Decision]) -> Admission[Call]:
    """Return an admission that knows what the server knew at the beginning."""
    server, patience = recording.server, Patience()
    admission: Admission[Call] = Admission(
        server.slots,
        math.inf if server.max_waiting is None else server.max_waiting,
        math.inf if server.max_held is None else server.max_held,
        server.max_batch,
        server.token_shares,
        patience=patience,
    )
    admission.overhead = server.overhead
    kinds, callers = set[CostKey](), set[Any]()
    for decision in decisions:
        if decision.kind not in kinds and decision.mean is not None:
            kinds.add(decision.kind)
            for turn in range(_TAUGHT):
                seen = decision.mean + (decision.spread if turn % 2 else -decision.spread)
                admission.estimates.learn(decision.kind, max(seen, 0.0), 0.0)
        if decision.due_at < decision.expires_at and decision.caller not in callers:
            callers.add(decision.caller)
            for _ in range(_TAUGHT):
                patience.note_left(decision.caller, decision.due_at - decision.arrived_at, 0.0)
    return admission


def _is_over(decision: Decision) -> bool:
    return decision.outcome is not None or decision.out_at is not None


def _work(decisions: Sequence[Decision]) -> Work:
    return Work(len(decisions), sum(each.demand or 0.0 for each in decisions))


def _by_reason(decisions: Sequence[Decision]) -> dict[Refusal, int]:
    counted = Counter(each.why for each in decisions)
    return {why: count for why, count in counted.most_common() if why is not None}


def _length(decisions: Sequence[Decision]) -> float:
    """Return the seconds from the first arrival to the last moment of any call."""
    moments = (each.ended_at or each.out_at or each.decided_at for each in decisions)
    return max(moments) - decisions[0].decided_at
