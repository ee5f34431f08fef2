"""Which versions the model's folder asks for: its pin, or the latest, as servers follow it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mlserve.artifact import Manifest, version_folder
from mlserve.digests import file_names
from mlserve.errors import NotFound, UsageError
from mlserve.server.models.folders import Look, VersionFolders, first_versions
from mlserve.server.models.versions import ModelSpec
from mlserve_ray.artifacts import identity
from mlserve_ray.reports import Offer, Versions
from mlserve_ray.rollout import Aim

_Stamp = tuple[tuple[str, int, int, int], ...]


def _stamp(folder: Path) -> _Stamp:
    """Return what changes with the files of a folder. Raises OSError."""
    found = []
    for name in file_names(folder):
        state = (folder / name).stat()
        found.append((name, state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(found)


class StoreWatch:
    """The folder of one model. Every method reads the disk, which may block."""

    def __init__(self, model: ModelSpec, fetch_from: str | None) -> None:
        """`fetch_from` is the address of `--fetch-from`."""
        self._model = model
        self._fetch_from = fetch_from
        self._folders = VersionFolders(model.model, model.base_path)
        self._last = Look({})
        self._digests: dict[int, tuple[_Stamp, str]] = {}
        self.offers: dict[int, Offer] = {}
        """Where the versions are that were asked for."""

    def first(self) -> Aim:
        """Return what to serve at the start. Raises NotFound."""
        wanted, present = first_versions(self._model.base_path, self._model.policy)
        self._last = Look(dict.fromkeys(present))
        return self._aim(wanted)

    def look(self, served: Versions) -> Aim | None:
        """Return what to serve now; None while the folder cannot be read or is being changed."""
        look = self._folders.look(self._model.policy, served)
        if look is None:
            return None
        before, self._last = self._last, look
        if not look.wanted or not all(look.is_settled(v, before) for v in look.wanted):
            return None
        try:
            return self._aim(look.wanted)
        except NotFound:
            return None

    def _aim(self, versions: Versions) -> Aim:
        digests = []
        for version in versions:
            folder = version_folder(self._model.base_path, version)
            try:
                digest = self._digest(version, folder)
            except OSError as error:
                raise NotFound(f"{folder} cannot be read: {error}", hint="try again") from error
            digests.append(digest)
            kept = self.offers.get(version)
            if kept is None or kept.digest != digest:
                base_path = str(self._model.base_path.absolute())
                self.offers[version] = Offer(version, digest, base_path, self._fetch_from)
        return Aim(versions, tuple(digests))

    def _digest(self, version: int, folder: Path) -> str:
        """Return the version's digest; its files are read when they have changed, not each second.

        Raises OSError.
        """
        stamp = _stamp(folder)
        kept = self._digests.get(version)
        if kept is None or kept[0] != stamp:
            kept = self._digests[version] = (stamp, identity(folder))
        return kept[1]

    def is_idempotent(self, versions: Iterable[int]) -> bool:
        """Whether requests may be asked twice: not if a version's manifest says that they may not.

        Nor if it cannot be read.
        """
        base_path = self._model.base_path
        try:
            manifests = [Manifest.read(version_folder(base_path, each)) for each in versions]
        except UsageError:
            return False
        return all(manifest is None or manifest.idempotent for manifest in manifests)

    def base_folder(self, version: int) -> str:
        """Return the folder of that version."""
        return str(version_folder(self._model.base_path, version))
