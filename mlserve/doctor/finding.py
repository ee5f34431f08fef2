"""A finding of `mlserve doctor`: what was checked, the result, and the fix if any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Area(StrEnum):
    """Areas of findings: the headings of the report."""

    SOFTWARE = "software"
    LAUNCHERS = "launchers"
    MACHINE = "machine"
    FILES = "files"
    NETWORK = "network"


class Status(StrEnum):
    """Meaning of a finding for the default path: export, up, predict.

    FAIL breaks it; WARN may degrade it, or breaks an alternative.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `data` is the same for programs; `fix` is the next step, if there is one."""

    area: Area
    name: str
    status: Status
    text: str
    fix: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
