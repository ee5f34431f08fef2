"""What a server is asked to serve: a model, where its versions are, and which of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlserve.backend import Backend, LoadOptions
from mlserve.server.models.versions import VersionPolicy


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and after how many seconds, a version that failed to load is tried again."""

    times: int = 0
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What to serve: a model's name, its folder, the backend that loads it, and the policy.

    `poll_seconds` is the time between two looks at the folder; 0 never looks again. `labels` are
    names of version numbers. A model that `awaits_versions` may have none when the server starts.
    """

    backend: Backend
    model: str
    base_path: Path
    policy: VersionPolicy
    options: LoadOptions
    poll_seconds: float
    labels: Mapping[str, int] = field(default_factory=dict)
    retries: Retries = field(default_factory=Retries)
    awaits_versions: bool = False

    def differs_in_choice_only(self, other: ServedModel) -> bool:
        """Whether both are the same but for which versions are served, and their labels."""
        return replace(self, policy=other.policy, labels=other.labels) == other
