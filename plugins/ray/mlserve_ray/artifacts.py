"""The files of a version on a replica's node: found there, fetched, or brought through the cluster.

The front names each version by the digest of its files. A node that has the front's folder under
the same path (a shared disk) uses that, if its files are the same; else the version is fetched from
the address of `--fetch-from`; else its bytes come through Ray's object store. What was fetched is
kept in the node's cache by its digest. Nothing is served whose digest is another.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mlserve.artifact import MANIFEST_NAME, Artifact, Manifest, version_folder
from mlserve.digests import file_names, path_digest
from mlserve.errors import ModelLoadFailed, reason_of
from mlserve.incoming import sync
from mlserve.paths import cache_dir
from mlserve.remote.address import Address, is_remote
from mlserve.remote.resolving import resolve
from mlserve_ray.reports import Offer

CHUNK = 16 * 2**20
"""Bytes that go through the object store as one object: a store has at least 75 MB."""
_log = logging.getLogger(__name__)
Put = Callable[[bytes], Any]
"""Keeps bytes in the object store and returns a reference to them."""
Get = Callable[[Any], bytes]
"""Returns the bytes of a reference."""


class Absent(Exception):
    """The files are not on this node yet: the front is asked for them."""


def identity(folder: Path) -> str:
    """Return `sha256:<hex>`, which is the same for the same version.

    A manifest lists the digests of all other files, so its own digest stands for the version; what
    mlserve did not export is read as a whole. Raises OSError.
    """
    manifest = folder / MANIFEST_NAME
    if manifest.is_file():
        return f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"
    return path_digest(folder)


class Nearby:
    """Finds the folders of versions on this node. `node` names it in messages."""

    def __init__(self, model: str, node: str, get: Get) -> None:
        self._model = model
        self._node = node
        self._get = get
        self._warned: set[str] = set()

    def folder(self, offer: Offer) -> Path:
        """Return the folder of that version on this node, whose files are those of the front.

        Raises Absent if they have to come from the front and are not offered yet, and
        ModelLoadFailed for files that are not the front's.
        """
        same = version_folder(Path(offer.base_path), offer.version)
        if same.is_dir() and self._is_same(same, offer):
            return same
        kept = self._cache(offer)
        if kept.is_dir():
            return kept
        if offer.address is not None:
            return self._fetched(offer, offer.address)
        if offer.chunks is None:
            raise Absent
        return self._brought(offer, offer.chunks)

    def _is_same(self, folder: Path, offer: Offer) -> bool:
        try:
            found = identity(folder)
        except OSError as error:
            found = f"unreadable ({error.strerror})"
        if found != offer.digest and str(folder) not in self._warned:
            self._warned.add(str(folder))
            _log.warning(
                "%s on %s is not used: its digest is %s, and that of version %d is %s",
                *(folder, self._node, found, offer.version, offer.digest),
            )
        return found == offer.digest

    def _cache(self, offer: Offer) -> Path:
        return cache_dir() / "replicas" / offer.digest.removeprefix("sha256:")

    def _fetched(self, offer: Offer, address: str) -> Path:
        """Return the folder of a version in what is at the address: it, or one with versions."""
        copy = Path(address)
        if is_remote(address):
            copy, address = _copy_of(address)
        numbered = version_folder(copy, offer.version)
        folder = numbered if numbered.is_dir() else copy
        found = identity(folder) if folder.is_dir() else "that of a file"
        if found != offer.digest:
            raise ModelLoadFailed(
                f"version {offer.version} of {self._model} from {address} has the digest {found} "
                f"on {self._node}, and {offer.digest} where the server was started",
                hint="put the same version there, or leave --fetch-from out",
            )
        self._require_whole(folder, offer)
        return folder

    def _brought(self, offer: Offer, chunks: Mapping[str, Sequence[Any]]) -> Path:
        kept = self._cache(offer)
        incoming = kept.with_name(f".incoming-{secrets.token_hex(4)}")
        try:
            incoming.mkdir(parents=True)
            for name, references in chunks.items():
                self._write(_inside(incoming, name), references)
            found = identity(incoming)
            if found != offer.digest:
                raise ModelLoadFailed(
                    f"version {offer.version} of {self._model} arrived on {self._node} with the "
                    f"digest {found} instead of {offer.digest}",
                    hint="its files change where the server was started: export another version",
                )
            self._require_whole(incoming, offer)
            _publish(incoming, kept)
        except OSError as error:
            raise ModelLoadFailed(
                f"version {offer.version} of {self._model} cannot be kept on {self._node}: "
                f"{reason_of(error)}",
                hint="make room there, or set MLSERVE_HOME for Ray's processes",
            ) from error
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return kept

    def _write(self, path: Path, references: Sequence[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for reference in references:
                file.write(self._get(reference))
            file.flush()
            os.fsync(file.fileno())

    def _require_whole(self, folder: Path, offer: Offer) -> None:
        manifest = Manifest.read(folder)
        Artifact(folder, self._model, offer.version, manifest).require_whole()


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def chunks_of(folder: Path, put: Put) -> dict[str, tuple[Any, ...]]:
    """Put the files of a version into the object store, in pieces. Raises OSError."""
    found = {}
    for name in file_names(folder):
        with (folder / name).open("rb") as file:
            found[name] = tuple(put(piece) for piece in _pieces(file))
    return found


def _pieces(file: _Readable) -> Iterator[bytes]:
    while piece := file.read(CHUNK):
        yield piece


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; names come from the front, which may be wrong."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise ModelLoadFailed(f"{name!r} is no file of a version", hint="export the model again")
    return folder.joinpath(*parts)


def _publish(incoming: Path, kept: Path) -> None:
    """Rename a whole version into the cache, unless another replica was faster."""
    try:
        incoming.rename(kept)
    except OSError:
        if not kept.is_dir():
            raise
        return
    sync(kept.parent)


def _copy_of(address: str) -> tuple[Path, str]:
    """Fetch what is at the address; return where it is now, and the address without secrets."""
    parsed = Address.parse(address)
    return resolve(parsed, _quiet).copy.path, parsed.shown


def _quiet(doing: str, done: int, of: int | None) -> None:
    """Show nothing: a replica has no terminal."""
