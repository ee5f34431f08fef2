"""A replica's own view of the model's folder: links to version folders, and a pin of its own.

The server of the replica follows this folder as every server of mlserve follows a model's folder.
So one replica at a time can be told to serve another version, by a hot reload that loses nothing.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from mlserve.artifact import folders_by_version
from mlserve.pin import write_pin
from mlserve_ray.reports import Versions


class View:
    """The folder `path`, which holds only links to folders elsewhere, and the pin."""

    def __init__(self, path: Path, *, is_pinned: bool) -> None:
        """`is_pinned`: its server follows the pin, since no versions were named for it."""
        self.path = path
        self._is_pinned = is_pinned
        self._wanted: Versions = ()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def show(self, version: int, folder: Path) -> None:
        """Show that folder as the version; at once and as a whole, also in place of another."""
        link = self.path / str(version)
        if link.is_symlink() and link.readlink() == folder:
            return
        new = self.path / f".{version}.{secrets.token_hex(4)}"
        new.symlink_to(folder)
        new.replace(link)

    def want(self, versions: Versions) -> None:
        """Have the server serve those versions, all of which are shown."""
        if versions == self._wanted:
            return
        self._wanted = versions
        if self._is_pinned:
            write_pin(self.path, versions[-1])
        else:
            self.keep(versions)

    def keep(self, versions: Versions) -> None:
        """Show no other versions than those: the server has let the others go."""
        for version, names in folders_by_version(self.path).items():
            if version not in versions:
                for name in names:
                    (self.path / name).unlink(missing_ok=True)

    @property
    def wanted(self) -> Versions:
        """What the server was last told to serve; empty before that."""
        return self._wanted

    @property
    def shown(self) -> Versions:
        """The versions that are shown, and whose folders are there."""
        return tuple(folders_by_version(self.path))
