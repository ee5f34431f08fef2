"""Which versions of a model are on disk, which of them to serve, and what state each is in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

from mlserve.artifact import MANIFEST_NAME, without_manifest
from mlserve.backend import Backend, LoadOptions
from mlserve.errors import InvalidInput, MlserveError, NotFound, shortened
from mlserve.store import VersionPolicy, present_versions

VersionChoice = int | str | None
"""The version a request asks for: its number, its label, or None for the latest."""
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.onnx", MANIFEST_NAME)
"""What a version folder holds: found in the base path itself, it was given one level too deep."""


Fingerprint = frozenset[tuple[str, int, int]]
"""What a version folder holds: each path in it, its size, and the time of its last change."""


class State(IntEnum):
    """The states of a version, with the numbers of TensorFlow Serving's `ModelVersionStatus`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class NotServed(NotFound):
    """No version of `model` is served, or not the `version` that was asked for (None: the latest).

    The protocols say so in words of their own.
    """

    def __init__(self, model: str, version: int | None, message: str, *, hint: str | None = None):
        super().__init__(message, hint=hint)
        self.model = model
        self.version = version


def unknown_label(label: str, *, hint: str | None = None) -> InvalidInput:
    """The error for a label that no version of the model has."""
    return InvalidInput(f"Unrecognized servable version label: {shortened(label)}", hint=hint)


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version, with the error that it failed with, if it did."""

    version: int
    state: State
    error: MlserveError | None = None


def unfinished_versions(
    base_path: Path, policy: VersionPolicy, present: Sequence[int]
) -> tuple[int, ...]:
    """The versions that are not to be served for want of a manifest: see `without_manifest`."""
    named = set(policy.versions)
    return without_manifest(base_path, [v for v in present if not named or v in named])


def first_versions(base_path: Path, policy: VersionPolicy) -> tuple[tuple[int, ...], Sequence[int]]:
    """The versions to load when the server starts, and all that there are.

    Raises NotFound, with the fix as its hint, when there is none.
    """
    try:
        present = present_versions(base_path)
    except OSError as error:
        raise NotFound(
            f"the base path {base_path} cannot be read: {error.strerror}",
            hint="give the folder of the model, the one that holds its version folders",
        ) from error
    if not present:
        raise _no_version(base_path)
    unfinished = unfinished_versions(base_path, policy, present)
    wanted = policy.wanted([version for version in present if version not in unfinished])
    if not wanted:
        raise NotFound(
            f"{base_path} has no version {_list(policy.versions)}",
            hint=f"there are: {_list(present)}",
        )
    return wanted, present


def fingerprint(folder: Path) -> Fingerprint:
    """What changes when a file of the folder does."""
    found = set()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            found.add((str(path), *_size_and_time(path)))
    return frozenset(found)


def _size_and_time(path: Path) -> tuple[int, int]:
    """The size and time of change of a file; of a link that leads nowhere, its own."""
    for look in (os.stat, os.lstat):
        try:
            found = look(path)
        except OSError:
            continue
        return found.st_size, found.st_mtime_ns
    return -1, -1  # it was removed just now


def _no_version(base_path: Path) -> NotFound:
    for name in _MODEL_FILES:
        if (base_path / name).exists():
            return NotFound(
                f"{base_path} holds {name} itself, not version folders",
                hint=f"give the folder above it, with the model in a folder named after its "
                f"version: <base path>/1/{name}",
            )
    return NotFound(
        f"{base_path} holds no version folder",
        hint="export a model into it, or put it into a folder named after a number: <base path>/1/",
    )


def _list(versions: Sequence[int]) -> str:
    return ", ".join(str(version) for version in versions)


@dataclass(frozen=True, slots=True)
class LoadRetries:
    """How often, and after how many seconds, a version that failed to load is tried again."""

    times: int = 0
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
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
    retries: LoadRetries = field(default_factory=LoadRetries)
    awaits_versions: bool = False

    def differs_in_choice_only(self, other: ModelSpec) -> bool:
        """Whether both are the same but for which versions are served, and their labels."""
        return replace(self, policy=other.policy, labels=other.labels) == other
