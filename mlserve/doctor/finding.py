"""One thing that `mlserve doctor` looked at: what was found, and the fix if something is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Area(StrEnum):
    """What a finding is about: a heading of the report."""

    SOFTWARE = "software"
    LAUNCHERS = "launchers"
    MACHINE = "machine"
    FILES = "files"
    NETWORK = "network"


class Status(StrEnum):
    """What a finding means for the default path: export, up, predict.

    FAIL keeps it from working; WARN may hurt, or closes another way.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found. `data` says the same to programs; `fix` is the next step, if there is one."""

    area: Area
    name: str
    status: Status
    text: str
    fix: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
