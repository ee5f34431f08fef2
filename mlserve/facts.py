"""How it is known what a model wants and gives: given by the user, found in the model, assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class How(StrEnum):
    """How something about a model is known."""

    GIVEN = "given"
    """The user said it."""
    FOUND = "found"
    """The model says it, or it was measured by running the model."""
    ASSUMED = "assumed"
    """Nothing says it, and nothing depends on it that could be measured."""


@dataclass(frozen=True, slots=True)
class Fact:
    """How one thing about a model is known, and why; `warning` is what speaks against it."""

    how: How
    why: str = ""
    warning: str = ""

    def __str__(self) -> str:
        words = {How.FOUND: "found in the model", How.ASSUMED: "assumed"}.get(self.how, "given")
        return f"{words}: {self.why}" if self.why else words

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Fact:
        """Reads what `to_json` wrote. Raises ValueError and KeyError for anything else."""
        return cls(How(data["how"]), str(data.get("why", "")), str(data.get("warning", "")))


Facts = Mapping[str, Fact]
"""Facts by what they are about: `size`, `layout`, `scale`, `activation`."""


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """The facts as the manifest holds them."""
    return {name: fact.to_json() for name, fact in facts.items()}


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """Reads what `facts_to_json` wrote. Raises what `Fact.from_json` raises."""
    return {name: Fact.from_json(item) for name, item in data.items()}
