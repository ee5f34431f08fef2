"""Copies of what was fetched, by address and digest.

<cache>/remote/<key of the address>/
    lock                  held by whoever fetches, or looks at, this address
    partial/              what is arriving (`mlserve.remote.upstream.Partial`)
    current               the digest of the copy that was fetched last
    <digest>/record.json  where and when the copy came from
    <digest>/content/     the copy: one file or one folder
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlserve import paths
from mlserve.digests import path_digest
from mlserve.incoming import sync, sync_tree
from mlserve.remote.address import Address
from mlserve.remote.upstream import Found, Partial
from mlserve.sources import Progress

_RECORD = "record.json"
_CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy in the cache. `digest` is its SHA-256 in hexadecimal, `fetched` is UTC, ISO 8601.

    The digest of a folder is that of `path_digest`.
    """

    folder: Path
    url: str
    resolved: str
    revision: str | None
    digest: str
    fetched: str

    @property
    def path(self) -> Path:
        """Return the file or the folder itself. Raises OSError and ValueError if it is gone."""
        (path,) = (self.folder / "content").iterdir()
        return path

    def is_whole(self) -> bool:
        """Return whether it still has its digest; reads every byte."""
        try:
            return path_digest(self.path) == f"sha256:{self.digest}"
        except (OSError, ValueError):
            return False


class Entry:
    """The place of one address in the cache. Use it only inside `locked`."""

    def __init__(self, address: Address) -> None:
        self._url = address.shown
        self._folder = paths.cache_dir() / "remote" / address.key
        self.partial = Partial(self._folder / "partial")

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Hold the lock inside the block, waiting for another process that fetches the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another download of the same", 0, None)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def copy(self, digest: str | None = None) -> Copy | None:
        """Return the copy of that digest, or the one that was fetched last; None if there is none.

        One that has been damaged is removed.
        """
        try:
            digest = digest or self._read_current()
            record = json.loads((self._folder / digest / _RECORD).read_text())
            found = Copy(folder=self._folder / digest, **record)
        except (OSError, ValueError, TypeError):
            return None
        if found.is_whole():
            return found
        shutil.rmtree(found.folder, ignore_errors=True)
        return None

    def digest_of_arrived(self) -> str:
        """Return the SHA-256 of what has arrived, in hexadecimal."""
        (path,) = self.partial.content.iterdir()
        return path_digest(path).removeprefix("sha256:")

    def publish(self, found: Found, digest: str) -> Copy:
        """Make what has arrived the current copy, by renames, and remove all but the one before."""
        folder, before = self._folder / digest, self._read_current()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        copy = Copy(folder, self._url, found.resolved, found.revision, digest, now)
        aside = self.partial.folder
        for leftover in aside.iterdir():
            if leftover != self.partial.content:
                _remove(leftover)
        (aside / _RECORD).write_text(json.dumps(_record(copy), indent=2) + "\n")
        sync_tree(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        self._write_current(digest)
        self._prune({digest, before})
        return copy

    def _read_current(self) -> str:
        with suppress(OSError):
            return (self._folder / _CURRENT).read_text().strip()
        return ""

    def _write_current(self, digest: str) -> None:
        aside = self._folder / f"{_CURRENT}.new"
        aside.write_text(digest + "\n")
        aside.rename(self._folder / _CURRENT)
        sync(self._folder)

    def _prune(self, kept: set[str]) -> None:
        """Remove old copies. The one before stays: another process may still read it."""
        for folder in self._folder.iterdir():
            if (folder / _RECORD).is_file() and folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _record(copy: Copy) -> dict[str, Any]:
    record = asdict(copy)
    del record["folder"]
    return record


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
