"""Which versions of a model to serve, which one a request asks for, and the state of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

from mlserve.backend import Backend
from mlserve.errors import InvalidInput, MlserveError, NotFound, shortened
from mlserve.load_options import LoadOptions
from mlserve.rollout import NO_ROLLOUT, RolloutOptions
from mlserve.store import VersionPolicy
from mlserve.system import usable_cpus

VersionChoice = int | str | None
"""The version a request asks for: its number, its label, or None for the latest."""


class State(IntEnum):
    """The states of a version, with the numbers of TensorFlow Serving's `ModelVersionStatus`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class NotServed(NotFound):
    """No version of `model` is served, or not the requested `version` (None: the latest).

    Each protocol words this in its own way.
    """

    def __init__(self, model: str, version: int | None, message: str, *, hint: str | None = None):
        super().__init__(message, hint=hint)
        self.model = model
        self.version = version


def unknown_label(label: str, *, hint: str | None = None) -> InvalidInput:
    """Return the error for a label that no version of the model has."""
    return InvalidInput(f"Unrecognized servable version label: {shortened(label)}", hint=hint)


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """The state of one version, with its error if it failed."""

    version: int
    state: State
    error: MlserveError | None = None


@dataclass(frozen=True, slots=True)
class LoadRetries:
    """How often, and after how many seconds, to retry a version that failed to load."""

    times: int = 0
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What to serve: a model's name, its folder, the backend that loads it, and the policy.

    `poll_seconds` is the time between two looks at the folder; 0 never looks again. `labels` are
    names for version numbers. A model that `awaits_versions` may have none when the server starts.
    `width` is the most calls of it that run at once; None leaves it to the server. `signed_by` is
    the file of the key that must have signed each version (`mlserve.signing`). `rollout` says what
    a second version is for; the policy has it aside.
    """

    backend: Backend
    model: str
    base_path: Path
    policy: VersionPolicy
    options: LoadOptions
    poll_seconds: float
    labels: Mapping[str, int] = field(default_factory=dict)
    retries: LoadRetries = field(default_factory=LoadRetries)
    awaits_versions: bool = False
    width: int | None = None
    signed_by: Path | None = None
    rollout: RolloutOptions = NO_ROLLOUT

    @property
    def calls_at_once(self) -> int:
        """How many calls of it run at once, if it has the server's threads to itself."""
        threads = self.options.calls_at_once or usable_cpus()
        is_here = (self.options.processes or 1) == 1
        return threads + self.backend.calls_ahead if is_here else threads

    def differs_in_choice_only(self, other: ModelSpec) -> bool:
        """Return whether only the versions to serve and their labels may differ between the two."""
        chosen = replace(self, policy=other.policy, labels=other.labels, rollout=other.rollout)
        return chosen == other
