"""What the store holds: every version of every model with its size, age and state.

A version that cannot be used is listed with the reason, and hides no other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from mlserve.artifact import (
    MANIFEST_NAME,
    Artifact,
    NewerManifest,
    version_folder,
    without_manifest,
)
from mlserve.digests import size_faults
from mlserve.errors import ModelLoadFailed, NotFound, UsageError
from mlserve.hints import did_you_mean
from mlserve.pin import pin_or_none
from mlserve.signing import is_signed, require_signed
from mlserve.store import LATEST_VERSION, Store, check_version, present_versions


class VersionState(StrEnum):
    """What can be said of a version without reading its files."""

    WHOLE = "whole"
    """Every file is there, in its size, as far as that is known."""
    INCOMPLETE = "incomplete"
    """It has no manifest, and a version before it has one: it may still be being copied."""
    DAMAGED = "damaged"
    """A file is missing or has another size, or the manifest cannot be read."""
    NEWER = "newer"
    """A newer mlserve wrote it, in a format that this one does not know."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version folder of a store: its artifact and its state.

    The artifact has no manifest if that cannot be read. `size` is in bytes; `created` is the time
    of the export, else of the folder's last change. `problem` says why it is not whole.
    """

    backend: str
    artifact: Artifact
    size: int
    created: datetime
    state: VersionState
    problem: str = ""
    is_pinned: bool = False

    @property
    def source(self) -> str:
        """Where the model comes from, as the manifest says."""
        manifest = self.artifact.manifest
        if manifest is not None:
            return manifest.source
        return "not exported by mlserve" if self.state is VersionState.WHOLE else "unknown"

    def require_complete(self) -> None:
        """Raise ModelLoadFailed if it may still be being copied."""
        if self.state is VersionState.INCOMPLETE:
            raise ModelLoadFailed(
                f"{self}: {self.problem}",
                hint="try again once every file is there; a model that mlserve did not export "
                "belongs in the folder of another model",
            )

    def __str__(self) -> str:
        return f"{self.backend}/{self.artifact.model}@{self.artifact.version}"


class Check(StrEnum):
    """The outcome of reading every file of a version."""

    OK = "ok"
    DAMAGED = "damaged"
    NOT_SIGNED = "not signed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Checked:
    """A version whose files were read: the outcome and why, with each wrong file by its path.

    `is_signed` says whether the key that was asked for signed it; None if none was.
    """

    version: StoredVersion
    outcome: Check
    why: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)
    is_signed: bool | None = None


def check(version: StoredVersion) -> Checked:
    """Read every file of a version, and compare it with the digest in the manifest.

    Raises UsageError for a folder that cannot be read.
    """
    manifest = version.artifact.manifest
    if version.state in (VersionState.INCOMPLETE, VersionState.NEWER):
        return Checked(version, Check.NOT_CHECKED, version.problem)
    if manifest is None:
        outcome = Check.DAMAGED if version.problem else Check.NOT_CHECKED
        return Checked(version, outcome, version.problem or "mlserve did not export it")
    if manifest.files is None:
        why = f"mlserve {manifest.mlserve} exported it, which listed no digests"
        return Checked(version, Check.NOT_CHECKED, why)
    found = version.artifact.file_faults()
    return Checked(version, Check.DAMAGED if found else Check.OK, "", found)


def check_signature(checked: Checked, key: Path) -> Checked:
    """Check the signature too, of what is not known to be damaged or is still being copied.

    A version without digests is sound if its signature holds. Raises UsageError for a file that
    is not a key, PluginError without the library.
    """
    if checked.outcome is Check.DAMAGED or checked.version.state is VersionState.INCOMPLETE:
        return checked
    folder = checked.version.artifact.path
    try:
        require_signed(folder, key)
    except ModelLoadFailed as error:
        why = error.message.removeprefix(f"{folder} ") if is_signed(folder) else ""
        return replace(checked, outcome=Check.NOT_SIGNED, why=why, is_signed=False)
    return replace(checked, outcome=Check.OK, why="", is_signed=True)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of a model: its backend, its name and the path that holds its versions."""

    backend: str
    model: str
    base_path: Path

    def __str__(self) -> str:
        return f"{self.backend}/{self.model}"

    def versions(self) -> list[StoredVersion]:
        """Return its versions, ascending. Raises UsageError for a folder that cannot be read."""
        try:
            return list(_versions(self))
        except OSError as error:
            raise UsageError(
                f"{error.filename or self.base_path} cannot be read: {error.strerror}",
                hint="make it readable for this user",
            ) from error

    def pin_problem(self) -> str:
        """Return what is wrong with the pin; empty if nothing is, or if there is no pin."""
        try:
            LATEST_VERSION.at(self.base_path, [v.artifact.version for v in self.versions()])
        except UsageError as error:
            return f"{error.message}; {error.hint}"
        return ""

    def usual(self) -> StoredVersion:
        """Return the version that a server would take: the pinned one, else the latest whole one.

        If none is whole, the latest of them. Raises NotFound if there is none.
        """
        versions = self.versions()
        whole = [v for v in versions if v.state is VersionState.WHOLE]
        for found in ([v for v in versions if v.is_pinned], whole, versions):
            if found:
                return found[-1]
        raise NotFound(f"{self} has no version", hint="export one: mlserve export")

    def version(self, number: int) -> StoredVersion:
        """Return one version. Raises NotFound, listing what is there instead."""
        versions = self.versions()
        found = next((v for v in versions if v.artifact.version == number), None)
        if found is None:
            there = ", ".join(str(v.artifact.version) for v in versions) or "none"
            raise NotFound(
                f"{self} has no version {number} (there: {there})",
                hint="`mlserve models` lists what is there",
            )
        return found


def model_folders(
    store: Store, *, backend: str | None = None, model: str | None = None
) -> list[ModelFolder]:
    """Return the folders of the exported models, by backend and name.

    Raises NotFound if models were exported, and none for that backend or of that name.
    """
    known = [ModelFolder(b, m, store.base_path(b, m)) for b, m in store.exported()]
    found = [f for f in known if backend in (None, f.backend) and model in (None, f.model)]
    if known and not found:
        raise _no_such(" and ".join(filter(None, (backend, model))), known)
    return found


@dataclass(frozen=True, slots=True)
class Reference:
    """An exported model as the user names it: `[BACKEND/]MODEL[@VERSION]` or `BACKEND[@VERSION]`.

    `name` is what comes before the `@`; None is the only model.
    """

    name: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference. Raises UsageError for a version that is not a number."""
        name, at, version = text.partition("@")
        if not at:
            return cls(name)
        if not (version.isascii() and version.isdigit() and len(version) <= _MOST_DIGITS):
            raise UsageError(
                f"{text!r} does not name a version: {version!r} is not a number",
                hint="give BACKEND/MODEL@VERSION, for example onnxruntime/inception_v3@2",
            )
        return cls(name or None, check_version(int(version)))

    def find(
        self, store: Store, *, backend: str | None = None, model: str | None = None
    ) -> ModelFolder:
        """Return the one model that is meant; `backend` and `model` narrow the choice.

        Raises NotFound if there is none, UsageError if several fit.
        """
        known = model_folders(store)
        fits = [f for f in known if self._fits(f)]
        fits = [f for f in fits if backend in (None, f.backend) and model in (None, f.model)]
        if len(fits) == 1:
            return fits[0]
        asked = self.name or " and ".join(filter(None, (backend, model)))
        if not fits:
            raise _no_such(asked, known)
        listed = ", ".join(map(str, fits))
        raise UsageError(
            f"{asked!r} matches several models: {listed}"
            if asked
            else f"{len(fits)} models were exported: {listed}",
            hint=f"name one of them, for example {fits[0]}, or choose with --backend and --model",
        )

    def _fits(self, folder: ModelFolder) -> bool:
        return self.name in (None, str(folder), folder.backend, folder.model)


_MOST_DIGITS = 20


def _no_such(asked: str, known: list[ModelFolder]) -> NotFound:
    if not known:
        return NotFound("no model has been exported yet", hint="export one: mlserve export")
    if "/" in asked:  # a backend alone is not what was meant
        names = list(map(str, known))
    else:
        names = [name for f in known for name in (f.model, str(f), f.backend)]
    return NotFound(
        f"no exported model matches {asked!r} (exported: {', '.join(map(str, known))})",
        hint=did_you_mean(asked, names) + "`mlserve models` lists what is there",
    )


def _versions(folder: ModelFolder) -> Iterator[StoredVersion]:
    base_path = folder.base_path
    present = present_versions(base_path)
    unfinished = without_manifest(base_path, present)
    pin = pin_or_none(base_path)
    for version in present:
        path = version_folder(base_path, version)
        artifact, state, problem = _look(path, folder.model, version)
        if version in unfinished:
            state = VersionState.INCOMPLETE
            problem = f"it has no {MANIFEST_NAME}: it is being copied, or was copied in part"
        try:
            size, changed = _size_of(path), path.stat().st_mtime
        except FileNotFoundError:
            continue  # it is being removed
        created = _created(artifact, changed)
        yield StoredVersion(folder.backend, artifact, size, created, state, problem, version == pin)


def _look(path: Path, model: str, version: int) -> tuple[Artifact, VersionState, str]:
    bare = Artifact(path, model, version, None)
    try:
        artifact = Artifact.open(path.parent, model, version)
    except NewerManifest as error:
        return bare, VersionState.NEWER, error.message
    except UsageError as error:
        return bare, VersionState.DAMAGED, error.message
    files = None if artifact.manifest is None else artifact.manifest.files
    try:
        found = {} if files is None else size_faults(path, files)
    except OSError as error:
        return artifact, VersionState.DAMAGED, f"{path} cannot be read: {error.strerror}"
    for name, fault in found.items():
        return artifact, VersionState.DAMAGED, f"{name} {fault}"
    return artifact, VersionState.WHOLE, ""


def _size_of(folder: Path) -> int:
    """Return the bytes in the files of a folder."""
    return sum(
        Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names
    )


def _created(artifact: Artifact, changed: float) -> datetime:
    try:
        found = datetime.fromisoformat(artifact.manifest.created if artifact.manifest else "")
    except ValueError:
        return datetime.fromtimestamp(changed, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
