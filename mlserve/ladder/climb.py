"""What became of the rows of a request on a ladder: the rung of each, and whether it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from mlserve.deadline import Deadline, in_words
from mlserve.errors import DeadlineExceeded

if TYPE_CHECKING:
    from mlserve.backend import Runner, Tensors

_MOST_GROUPS = 50
"""Groups of equal rows that a header lists; more are counted, as headers are kept short."""


class Fate(StrEnum):
    """How the answer of a row came about."""

    CERTAIN = "certain"
    """Its rung is the last one, or its margin is above the rung's certified bound."""
    UNCERTAIN = "uncertain"
    """The label may be another one on the next rung, for which there was no time."""
    REFUSED = "refused"
    """As UNCERTAIN, but the policy is to give no such answer."""


class RowRung(NamedTuple):
    """The rung that answered a row: its place from 0, its name, and how sure the answer is."""

    place: int
    name: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class Climb:
    """The outputs for the rows of a call, and the rung of each row.

    `needed` is how long the next rung would have taken for the rows that did not reach it, in
    seconds; 0 if all did. A runner that has no rungs gives no `rows`.
    """

    outputs: Tensors
    rows: tuple[RowRung, ...] = ()
    needed: float = 0.0


def climb(
    runner: Runner,
    signature: str,
    inputs: Tensors,
    deadline: Deadline | None,
    *,
    only_rung: int | None = None,
) -> Climb:
    """Run a call on a ladder, or on any other Runner. Raises what `Runner.run` raises.

    `only_rung` has just that rung of a ladder run, by its place, and no row refused.
    """
    on_ladder = getattr(runner, "climb", None)  # isinstance takes longer than a short run
    if on_ladder is None:
        return Climb(runner.run(signature, inputs, deadline))
    climbed: Climb = on_ladder(signature, inputs, deadline, only_rung=only_rung)
    return climbed


def rung_of(runner: Runner, place: int | None) -> Runner:
    """Return the Runner of that rung of a ladder; the Runner itself without a place."""
    if place is None:
        return runner
    on_ladder: Any = runner
    found: Runner = on_ladder.on_rung(place)
    return found


def has_refused(rows: Sequence[RowRung]) -> bool:
    """Return whether one of the rows is REFUSED, so that the call fails though it was in time."""
    return any(row.fate is Fate.REFUSED for row in rows)


def require_certain(rows: Sequence[RowRung], needed: float, deadline: Deadline | None) -> None:
    """Raise DeadlineExceeded if one of the rows is REFUSED."""
    refused = [row for row in rows if row.fate is Fate.REFUSED]
    if refused:
        within = "" if deadline is None else f" within {in_words(deadline.timeout)}"
        which = "the answer" if len(rows) == 1 else f"{len(refused)} of {len(rows)} answers"
        raise DeadlineExceeded(
            f"no certain answer{within}: {which} of {refused[0].name} may have another label on "
            f"the next rung of the ladder, which needs about {in_words(needed)}",
            hint="give the call more time with {timeout}, or take uncertain answers: serve with "
            "--ladder-policy answer",
        )


def in_header(rows: Sequence[RowRung]) -> str:
    """Return the rungs as a list of RFC 8941, such as `int8, fp32;rows=2, int8;uncertain`.

    The rows are in their order, and `rows` is how many in a row are alike. Beyond 50 groups they
    are counted instead, in the order of the rungs.
    """
    groups = [(row, len(list(alike))) for row, alike in groupby(rows)]
    if len(groups) > _MOST_GROUPS:
        groups = [(row, rows.count(row)) for row in sorted(set(rows))]
    return ", ".join(_item(row, count) for row, count in groups)


def _item(row: RowRung, count: int) -> str:
    fate = "" if row.fate is Fate.CERTAIN else f";{row.fate}"
    return f"{row.name}{fate}" + (f";rows={count}" if count > 1 else "")
