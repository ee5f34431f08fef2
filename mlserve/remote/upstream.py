"""What every kind of server is for the cache: something that can be asked for its content."""

from __future__ import annotations

import errno
import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from mlserve.distributions import CORE, install_command, not_installed
from mlserve.errors import ExportError, PluginError, shortened
from mlserve.remote.address import Address
from mlserve.sources import Progress

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""How long a server may take to accept a connection, and to send the next bytes."""
PART = ".part"
"""The end of the name of a file that has not arrived whole."""
_STATE = "state.json"
_BUSY = {408, 425, 429}
_LOWEST_FAULT = 500
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Unreachable(ExportError):
    """The server gave no answer, or broke it off, so that a copy in the cache may stand for it."""


def unreachable(address: Address, reason: str) -> Unreachable:
    """Return the error for a server that gives no whole answer; what has arrived is kept."""
    return Unreachable(
        f"{address.shown} cannot be fetched: {reason}",
        hint="check the network and the address, and try again: what has arrived is kept, and the "
        "download is resumed where the server allows it",
    )


def absent_library(address: Address, module: str, extra: str) -> PluginError:
    """Return the error for an address whose library is not installed."""
    return not_installed(address.shown, module, hint=install_command(f"{CORE}[{extra}]"))


@dataclass(frozen=True, slots=True)
class Found:
    """What an upstream has given.

    `resolved` is the address of exactly this content, as far as there is one, without secrets;
    `revision` is what changes when the content does: an ETag, a version, a commit. None means that
    the server does not tell, so that the content is fetched again each time.
    """

    resolved: str
    revision: str | None


class Partial:
    """A folder beside the cache's copies in which a file or folder arrives.

    `content` gets one entry: the file or the folder. What a fetch that was broken off has left is
    there for the next one, as long as the upstream's revision is the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = folder / "content"

    @property
    def revision(self) -> str | None:
        """Return the revision that the content is of, if there is any."""
        try:
            state = json.loads((self.folder / _STATE).read_text())
            return str(state["revision"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, revision: str | None) -> None:
        """Keep what is there if it is of this revision; else begin with an empty folder."""
        if revision is None or self.revision != revision:
            self.clear()
            self.content.mkdir(parents=True)
            if revision is not None:
                (self.folder / _STATE).write_text(json.dumps({"revision": revision}))

    def clear(self) -> None:
        """Remove everything."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def clear_content(self) -> None:
        """Remove the content, for an upstream that puts it there whole."""
        shutil.rmtree(self.content)
        self.content.mkdir()

    def part_of(self, name: str) -> Path:
        """Return the path in which the file `name` of the content arrives; makes its folder."""
        path = self.content / f"{name}{PART}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def downloading(name: str) -> str:
    """Return what the progress says of a file; its name is the server's, and may be anything."""
    return f"downloading {shortened(name)}"


def is_outage(status: int) -> bool:
    """Return whether an HTTP status says that the server cannot answer now, but may later."""
    return status in _BUSY or status >= _LOWEST_FAULT


def is_of_disk(error: Exception) -> bool:
    """Return whether the error is about this machine's disk, and not about the server."""
    return isinstance(error, OSError) and error.errno in _DISK_FAULTS


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def whole_of(part: Path) -> Path:
    """Return the path of a file that has arrived whole, from the path in which it arrives."""
    return part.with_name(part.name.removesuffix(PART))


def finish(part: Path) -> None:
    """Give a file that has arrived whole its own name."""
    part.rename(whole_of(part))


class Upstream(ABC):
    """A file or a folder on some server."""

    @abstractmethod
    def fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        """Put the content into `into.content`; None, without doing so, if its revision is `known`.

        Raises Unreachable if a later try may succeed, NotFound if there is no such thing,
        AccessDenied if the server wants other credentials, and ExportError for anything else.
        """
