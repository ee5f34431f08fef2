"""One thing that was looked at: what was found, and the way out where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a finding stands to the default path: export, up, predict.

    FAIL keeps it from working; WARN may hurt, or closes another way.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found. `data` is the same for programs; `fix` the next step where there is one."""

    area: str
    name: str
    status: Status
    text: str
    fix: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
