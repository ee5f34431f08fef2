"""What a replay has to hold: `--expect labels=99%,in-time=0.95,p99=200ms`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

from mlserve.bench.slo import Slo
from mlserve.bench.tally import Tally
from mlserve.errors import UsageError, shortened
from mlserve.replay.agreement import Agreement

LABELS, OUTPUTS, IN_TIME = "labels", "outputs", "in-time"
_SHARES = (LABELS, OUTPUTS, IN_TIME)
_LEVEL = re.compile(r"(p\d|max)")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)(%?)")
_USAGE = (
    "write for example --expect labels=99%,in-time=0.95,p99=200ms: the least share of the compared "
    "answers with the same labels (or outputs), of the requests answered in time, and a service "
    "level as of mlserve bench --slo"
)


@dataclass(frozen=True, slots=True)
class Held:
    """Whether one expectation is held; `found` is what the replay gave, None for nothing."""

    what: str
    is_held: bool
    found: float | None

    def __str__(self) -> str:
        found = "nothing to judge by" if self.found is None else f"{self.found * 100:.6g}%"
        return f"{self.what}: {'held' if self.is_held else 'not held'} ({found})"

    def to_json(self) -> dict[str, Any]:
        return {"expected": self.what, "is_held": self.is_held, "share": self.found}


@dataclass(frozen=True, slots=True)
class Expectations:
    """The least shares, 0 to 1, by what they are of, and a service level."""

    shares: Mapping[str, float] = field(default_factory=dict)
    slo: Slo | None = None

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read the option; None expects nothing. Raises UsageError, naming what is wrong."""
        shares: dict[str, float] = {}
        levels: list[str] = []
        for part in [] if text is None else text.split(","):
            name, _, value = part.strip().partition("=")
            if _LEVEL.match(name):
                levels.append(part)
                continue
            found = _SHARE.fullmatch(value)
            share = float(Fraction(found[1]) / (100 if found[2] else 1)) if found else -1.0
            if name not in _SHARES or not 0 <= share <= 1:
                raise UsageError(f"--expect {shortened(part)!r} is not an expectation", hint=_USAGE)
            if name in shares:
                raise UsageError(f"--expect names {name} twice", hint="give the least share once")
            shares[name] = share
        return cls(shares, Slo.parse(",".join(levels)) if levels else None)

    @property
    def needs_answers(self) -> bool:
        """Whether they can be judged only by answers that were recorded."""
        return LABELS in self.shares or OUTPUTS in self.shares

    def judge(self, replayed: Tally, agreement: Agreement) -> list[Held]:
        """Return whether each is held by what a replay gave."""
        in_time = replayed.in_time / replayed.requests if replayed.requests else None
        found = {
            LABELS: agreement.label_share,
            OUTPUTS: agreement.output_share,
            IN_TIME: in_time,
        }
        held = []
        for name, least in self.shares.items():
            share = found[name]
            held.append(Held(f"{name}={least:g}", share is not None and share >= least, share))
        if self.slo is not None:
            verdict = self.slo.judge(replayed)
            held.append(Held(str(self.slo), verdict.is_held, verdict.share))
        return held
