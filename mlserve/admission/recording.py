"""What a server's ring of decisions holds, as it is sent, saved, explained and replayed.

Moments are seconds before the recording was made, so negative; lengths of time are seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import Any, Self

from mlserve.admission.callers import Caller, Priority
from mlserve.admission.estimates import CostKey
from mlserve.admission.verdicts import Outcome, Refusal

FORM = 1
"""The version of the form. A reader refuses those that it does not know."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One call: what was decided on its arrival, and what became of it.

    `caller.address` is a number, the same for calls from one address.

    `kind` has version -1 and no signature if the call was refused on its head, which need not tell
    them, and no model if even that was not known.

    `mean` and `spread` are what was known of its demand, in seconds of the whole server; None if
    nothing was. `seconds`, `limit` and `for_another` are the verdict's (`verdicts.Verdict`). It is
    due at `due_at`: when it expires, or sooner if such callers hang up before. `held` is its size
    in bytes. When it arrived, `running` calls held slots, and `ahead` of the `waiting` calls were
    due before it; None in a recording of all calls, in which that can be counted.

    `why` is why it was refused, or taken out of the queue at `out_at`. A call that was started ran
    `together` with others in one slot, from `started_at` to `ended_at`, and took `demand` seconds
    of the server. `left_at` is when its caller went away while it ran.
    """

    request_id: str
    kind: CostKey
    caller: Caller
    priority: Priority
    is_asked: bool
    is_let_in: bool
    for_another: bool
    why: Refusal | None
    outcome: Outcome | None
    decided_at: float
    arrived_at: float
    expires_at: float
    due_at: float
    mean: float | None
    spread: float
    seconds: float
    limit: float
    started_at: float | None
    ended_at: float | None
    demand: float | None
    out_at: float | None
    left_at: float | None
    held: int
    ahead: int | None
    waiting: int
    running: int
    together: int


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the verdicts also depend on: the arguments of `Admission`; None is no limit.

    `widths` are of the models that may not use all slots. `overhead` is the part of the server's
    time that went into other things than runs.
    """

    slots: int
    max_batch: int = 1
    max_waiting: int | None = None
    max_held: int | None = None
    token_shares: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    overhead: float = 0.0


@dataclass(frozen=True, slots=True)
class Recording:
    """The decisions of a server on its last calls, the oldest first.

    `wall` is when it was made, in seconds since 1970. The server remembered `kept` calls then,
    which may be more than are in here, and had forgotten the `forgotten` ones before.
    """

    wall: float
    server: ServerFacts
    kept: int
    forgotten: int
    decisions: tuple[Decision, ...]

    def at(self, moment: float) -> float:
        """Return the time of day of that moment, in seconds since 1970."""
        return self.wall + moment

    def pieces(self) -> Iterator[str]:
        """Yield its JSON in small pieces (`pieces_of`)."""
        return pieces_of(self, self.decisions)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `pieces` wrote. Raises ValueError, with words that say what is wrong."""
        table = _object(data, "a recording")
        if table.get("form") != FORM:
            raise ValueError(f"its form is {table.get('form')!r}, and not {FORM}")
        try:
            kinds = [_kind(each) for each in table["kinds"]]
            callers = [Caller(*map(_text, each)) for each in table["callers"]]
            columns = [table["columns"].index(name) for name in _COLUMNS]
            decisions = tuple(
                _decision([row[column] for column in columns], kinds, callers)
                for row in table["calls"]
            )
            server = _server(_object(table["server"], "server"))
            kept, forgotten = _count(table["kept"]), _count(table["forgotten"])
            return cls(_number(table["wall"]), server, kept, forgotten, decisions)
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise ValueError(f"it is not whole: {type(error).__name__} {error}") from error


def pieces_of(about: Recording, decisions: Iterable[Decision]) -> Iterator[str]:
    """Yield the JSON of a recording with these decisions, which are taken as they are written.

    In one piece, it would keep the interpreter busy for half a second.
    """
    head = {
        "form": FORM,
        "wall": about.wall,
        "server": asdict(about.server),
        "kept": about.kept,
        "forgotten": about.forgotten,
        "columns": list(_COLUMNS),
    }
    yield json.dumps(head)[:-1] + ', "calls": ['
    kinds, callers = dict[CostKey, int](), dict[Caller, int]()
    left, separator = iter(decisions), "\n"
    while taken := list(islice(left, _A_PIECE)):
        rows = [
            _row(
                decision,
                kinds.setdefault(decision.kind, len(kinds)),
                callers.setdefault(decision.caller, len(callers)),
            )
            for decision in taken
        ]
        yield separator + json.dumps(rows, separators=(",", ":"))[1:-1]
        separator = ",\n"
    tail = {"kinds": list(kinds), "callers": list(callers)}
    yield "],\n" + json.dumps(tail)[1:] + "\n"


_A_PIECE = 50
"""Calls."""
_MOST_COUNTED = 2**63
_COLUMNS = tuple(column.name for column in fields(Decision))


def _row(decision: Decision, kind: int, caller: int) -> list[Any]:
    """Return a call's columns: its kind and caller by their numbers, times in microseconds."""
    row: list[Any] = [getattr(decision, name) for name in _COLUMNS]
    row[1], row[2], row[3] = kind, caller, decision.priority.in_words
    return [round(value, 6) if isinstance(value, float) else value for value in row]


def _decision(row: list[Any], kinds: list[CostKey], callers: list[Caller]) -> Decision:
    """Return the call with these columns. Raises ValueError, TypeError, IndexError."""
    at = dict(zip(_COLUMNS, row, strict=True))
    why, outcome = at["why"], at["outcome"]
    return Decision(
        request_id=_text(at["request_id"]),
        kind=kinds[_count(at["kind"])],
        caller=callers[_count(at["caller"])],
        priority=_priority(_text(at["priority"])),
        is_asked=bool(at["is_asked"]),
        is_let_in=bool(at["is_let_in"]),
        for_another=bool(at["for_another"]),
        why=None if why is None else Refusal(why),
        outcome=None if outcome is None else Outcome(outcome),
        decided_at=_number(at["decided_at"]),
        arrived_at=_number(at["arrived_at"]),
        expires_at=_number(at["expires_at"]),
        due_at=_number(at["due_at"]),
        mean=_maybe(at["mean"]),
        spread=_number(at["spread"]),
        seconds=_number(at["seconds"]),
        limit=_number(at["limit"]),
        started_at=_maybe(at["started_at"]),
        ended_at=_maybe(at["ended_at"]),
        demand=_maybe(at["demand"]),
        out_at=_maybe(at["out_at"]),
        left_at=_maybe(at["left_at"]),
        held=_count(at["held"]),
        ahead=None if at["ahead"] is None else _count(at["ahead"]),
        waiting=_count(at["waiting"]),
        running=_count(at["running"]),
        together=_count(at["together"]),
    )


def _kind(read: Any) -> CostKey:
    model, version, signature, size, decoding, climbs = read
    return CostKey(
        _text(model), int(version), _text(signature), int(size), _count(decoding), climbs
    )


_MOST_SECONDS = 1e11
"""Further away is no moment that can be told: the year 5138."""


def _server(read: Mapping[str, Any]) -> ServerFacts:
    waiting, held = read["max_waiting"], read["max_held"]
    return ServerFacts(
        slots=_at_least_one(read["slots"]),
        max_batch=_at_least_one(read["max_batch"]),
        max_waiting=None if waiting is None else _count(waiting),
        max_held=None if held is None else _count(held),
        token_shares={_text(name): _number(share) for name, share in read["token_shares"].items()},
        widths={_text(name): _count(width) for name, width in read["widths"].items()},
        overhead=_part(read.get("overhead", 0.0)),
    )


def _at_least_one(read: Any) -> int:
    if _count(read) < 1:
        raise TypeError(f"{read!r} is less than 1")
    return _count(read)


def _part(read: Any) -> float:
    if not 0.0 <= _number(read) <= 1.0:
        raise TypeError(f"{read!r} is no part of 1")
    return float(read)


def _priority(word: str) -> Priority:
    try:
        return Priority[word.upper()]
    except KeyError:
        raise ValueError(f"{word!r} is no priority") from None


def _object(read: Any, what: str) -> dict[str, Any]:
    if not isinstance(read, dict):
        raise ValueError(f"{what} must be a JSON object")  # noqa: TRY004  it is the data's fault
    return read


def _text(read: Any) -> str:
    if not isinstance(read, str):
        raise TypeError(f"{read!r} is no text")
    return read


def _number(read: Any) -> float:
    is_number = isinstance(read, int | float) and not isinstance(read, bool)
    if not is_number or not abs(read) <= _MOST_SECONDS:
        raise TypeError(f"{read!r} is no number")
    return float(read)


def _maybe(read: Any) -> float | None:
    return None if read is None else _number(read)


def _count(read: Any) -> int:
    if isinstance(read, bool) or not isinstance(read, int) or not 0 <= read < _MOST_COUNTED:
        raise TypeError(f"{read!r} is no count")
    return read
