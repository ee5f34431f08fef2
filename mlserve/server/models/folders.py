"""The version folders of a model: what is on disk, and whether it has changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve.artifact import MANIFEST_NAME, folders_by_version, version_folder, without_manifest
from mlserve.errors import NotFound, Unavailable, UsageError
from mlserve.store import VersionPolicy, present_versions

Fingerprint = frozenset[tuple[str, int, int]]
"""The contents of a version folder: each path, its size, and its time of last change."""
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.onnx", MANIFEST_NAME)
"""Files of a version folder; a base path that holds one itself was given one level too deep."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """The contents of the base path at one moment.

    `present` maps each version to its fingerprint if it is followed, else to None. `unfinished` are
    the versions that are not served because they lack a manifest, `wanted` those to serve, the last
    of them `beside` the others if it is not None.
    """

    present: Mapping[int, Fingerprint | None]
    unfinished: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    beside: int | None = None

    @property
    def primary(self) -> tuple[int, ...]:
        """The versions to serve without the one beside them."""
        return tuple(version for version in self.wanted if version != self.beside)

    @property
    def whole(self) -> tuple[int, ...]:
        """The versions that may be served."""
        return tuple(version for version in self.present if version not in self.unfinished)

    def is_settled(self, version: int, before: Look) -> bool:
        """Return whether the version is unchanged since `before`, or was there and not followed."""
        if version not in before.present:
            return False
        return before.present[version] in (None, self.present[version])


class VersionFolders:
    """The folders in the base path of one model, polled repeatedly."""

    def __init__(self, model: str, base_path: Path) -> None:
        self.model = model
        self.base_path = base_path
        self.can_be_read = True
        """Whether the last look could read the base path and its pin."""
        self._doubles: frozenset[int] = frozenset()

    def look(
        self, policy: VersionPolicy, loaded: Collection[int], beside: int | None = None
    ) -> Look | None:
        """Return what is there now; None when the base path or its pin cannot be read.

        So it is when the pinned version is absent: neither must end what is served. A loaded
        version stays served, even without a manifest. `beside` is served beside those of the
        policy, unless it is one of them.
        """
        try:
            folders = folders_by_version(self.base_path)
            policy = policy.at(self.base_path, tuple(folders))
        except (OSError, UsageError) as error:
            if self.can_be_read:
                _log.warning("%s: the versions stay as they are until it can be read", error)
            self.can_be_read = False
            return None
        self.can_be_read = True
        self._warn_of_doubles(folders)
        present = tuple(folders)
        unfinished = set(unfinished_versions(self.base_path, policy, present)) - set(loaded)
        look = Look(dict.fromkeys(present), tuple(sorted(unfinished)))
        wanted = policy.wanted(look.whole)
        beside = beside if beside in look.whole and beside not in wanted else None
        wanted = wanted if beside is None else (*wanted, beside)
        prints = {version: fingerprint(self.folder(version)) for version in wanted}
        return replace(look, present={**look.present, **prints}, wanted=wanted, beside=beside)

    def folder(self, version: int) -> Path:
        """Return the folder of that version."""
        return version_folder(self.base_path, version)

    def no_manifest(self, version: int) -> Unavailable:
        """Return the error that explains why a version without a manifest is not served yet."""
        return Unavailable(
            f"{self.folder(version)} has no {MANIFEST_NAME} yet, and a version before it has one",
            hint="it is served once the whole version is copied; a model that mlserve did not "
            "export belongs in the folder of another model",
        )

    def _warn_of_doubles(self, folders: Mapping[int, Sequence[str]]) -> None:
        """Warn once which folder is used when several have the number of one version."""
        doubles = {version: names for version, names in folders.items() if len(names) > 1}
        for version, (counts, *others) in doubles.items():
            if version not in self._doubles:
                _log.warning(
                    "%s: version %d is loaded from %s, and %s is ignored",
                    *(self.model, version, counts, ", ".join(others)),
                )
        self._doubles = frozenset(doubles)


def unfinished_versions(
    base_path: Path, policy: VersionPolicy, present: Sequence[int]
) -> tuple[int, ...]:
    """Return the versions not served because they lack a manifest: see `without_manifest`."""
    named = set(policy.versions)
    return without_manifest(base_path, [v for v in present if not named or v in named])


def first_versions(base_path: Path, policy: VersionPolicy) -> tuple[tuple[int, ...], Sequence[int]]:
    """Return the versions to load when the server starts, and all that exist.

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
    try:
        policy = policy.at(base_path, present)
    except UsageError as error:
        raise NotFound(error.message, hint=error.hint) from error
    unfinished = unfinished_versions(base_path, policy, present)
    wanted = policy.wanted([version for version in present if version not in unfinished])
    if not wanted:
        raise NotFound(
            f"{base_path} has no version {_list(policy.versions)}",
            hint=f"there are: {_list(present)}",
        )
    return wanted, present


def fingerprint(folder: Path) -> Fingerprint:
    """Return a fingerprint that changes when a file of the folder does."""
    entries = set()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            entries.add((str(path), *_size_and_time(path)))
    return frozenset(entries)


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change; those of the link itself if it is broken."""
    for look in (os.stat, os.lstat):
        try:
            status = look(path)
        except OSError:
            continue
        return status.st_size, status.st_mtime_ns
    return -1, -1  # it has just been removed


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
