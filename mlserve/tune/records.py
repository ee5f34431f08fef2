"""What `mlserve tune` found, kept in the state folder for `mlserve up`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve import paths
from mlserve.artifact import LARGEST_PLAIN_FILE, Artifact, json_of
from mlserve.errors import UsageError, reason_of
from mlserve.launch.private_files import open_own, replace_private, require_own, state_folder
from mlserve.launch.records import UNREADABLE, state_lock, unwritable
from mlserve.load_options import LoadOptions
from mlserve.served_model import ServedModel
from mlserve.tune.machine import Machine, version_digest

_FORMAT = 1
_FILE = "tuned.json"
_UNREADABLE = "remove the file, and measure again: mlserve tune"


@dataclass(frozen=True, slots=True)
class Tuning:
    """The winner for one version of a model on one machine.

    `options` are the tuned options alone; none is set if nothing beat the default. `made` is UTC,
    ISO 8601. `gain` says what they bring.
    """

    backend: str
    model: str
    base_path: Path
    version: int
    digest: str
    machine: Machine
    made: str
    options: LoadOptions
    gain: str

    @property
    def date(self) -> str:
        """The day it was made."""
        return self.made.partition("T")[0]

    @property
    def flags(self) -> str:
        """The options as flags, or that there are none."""
        return " ".join(self.options.argv()) or "the defaults"

    def is_of(self, model: ServedModel) -> bool:
        """Return whether it is about that model, whatever the version."""
        return (self.backend, self.model, self.base_path) == (
            model.backend,
            model.model,
            model.base_path,
        )

    def is_named(self, backend: str | None, model: str | None) -> bool:
        """Return whether it is of that backend and that model; None matches all."""
        return backend in (None, self.backend) and model in (None, self.model)

    def why_unfit(self, model: ServedModel, machine: Machine) -> str | None:
        """Return why it does not hold for what is to be served there; None if it does."""
        if self.machine != machine:
            return f"it was made on another machine ({self.machine})"
        if model.expected != (self.version,):
            versions = ", ".join(map(str, model.expected))
            return f"it is for version {self.version}, and this is version {versions}"
        if self.digest != digest_of(model):
            return f"the files of version {self.version} have changed since then"
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "model": self.model,
            "base_path": str(self.base_path),
            "version": self.version,
            "digest": self.digest,
            "machine": self.machine.to_json(),
            "made": self.made,
            "options": self.options.changed,
            "gain": self.gain,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tuning:
        """Read the output of `to_json`. Raises KeyError, TypeError, ValueError and UsageError."""
        return cls(
            backend=str(data["backend"]),
            model=str(data["model"]),
            base_path=Path(data["base_path"]),
            version=int(data["version"]),
            digest=str(data["digest"]),
            machine=Machine.from_json(data["machine"]),
            made=str(data["made"]),
            options=LoadOptions.from_json(data["options"]),
            gain=str(data["gain"]),
        )


def digest_of(model: ServedModel) -> str:
    """Return the digest of the one version to serve. Raises UsageError for unreadable files."""
    artifact = Artifact.open(model.base_path, model.model, model.expected[-1])
    try:
        return version_digest(artifact)
    except OSError as error:
        raise UsageError(
            f"{artifact.path} cannot be read: {error.strerror}", hint="make the folder readable"
        ) from error


def tunings() -> list[Tuning]:
    """Return what is kept, the newest last. Raises UsageError for a file that cannot be read."""
    path = _path()
    require_own(path.parent)
    try:
        with open_own(path) as file:
            data = json_of(file.read(LARGEST_PLAIN_FILE))
        if data["format"] != _FORMAT:
            raise ValueError(f"its format {data['format']!r} is not known")
        return [Tuning.from_json(item) for item in data["tunings"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=_UNREADABLE) from error
    except (UsageError, *UNREADABLE) as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}", hint=_UNREADABLE) from error


def keep(tuning: Tuning) -> None:
    """Keep it in the place of an older one of that model on that machine. Raises MlserveError."""
    _change(lambda kept: [*(each for each in kept if not _are_rivals(each, tuning)), tuning])


def forget(is_meant: Callable[[Tuning], bool]) -> list[Tuning]:
    """Drop those that are meant, and return them. Raises MlserveError."""
    dropped: list[Tuning] = []

    def without(kept: list[Tuning]) -> list[Tuning]:
        dropped.extend(filter(is_meant, kept))
        return [each for each in kept if each not in dropped]

    _change(without)
    return dropped


def _are_rivals(one: Tuning, other: Tuning) -> bool:
    mine, its = ((t.backend, t.model, t.base_path, t.machine) for t in (one, other))
    return mine == its


def _change(change: Callable[[list[Tuning]], list[Tuning]]) -> None:
    """Replace what is kept in one step: if that is broken off, the old file stays."""
    path = _path()
    with state_lock():
        kept = change(tunings())
        text = json.dumps(
            {"format": _FORMAT, "tunings": [each.to_json() for each in kept]}, indent=2
        )
        try:
            state_folder()
            replace_private(path, text + "\n")
        except OSError as error:
            raise unwritable(path, error) from error


def _path() -> Path:
    return paths.state_dir() / _FILE
