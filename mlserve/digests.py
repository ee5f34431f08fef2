"""Digests of the files of a version folder: measured, compared, and joined into one.

A manifest lists every file of its folder but itself, so that a file which was changed, lost or
added after the export is found before a runtime opens it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

_THREADS = 4
"""Files that are read side by side; hashing releases the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file's size in bytes, and the SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FileDigest:
        """Read the output of `to_json`. Raises KeyError, TypeError and ValueError."""
        return cls(int(data["size"]), bytes.fromhex(data["sha256"]).hex())


Digests = Mapping[str, FileDigest]
"""Digests by the path of the file in its folder, with `/` on every system."""


def digests_to_json(digests: Digests) -> dict[str, Any]:
    """Return the digests as a manifest holds them."""
    return {name: digest.to_json() for name, digest in digests.items()}


def digests_from_json(data: Mapping[str, Any]) -> Digests:
    """Read the output of `digests_to_json`. Raises what `FileDigest.from_json` raises."""
    return {name: FileDigest.from_json(item) for name, item in data.items()}


def digests_of(folder: Path, *, without: Collection[str] = ()) -> dict[str, FileDigest]:
    """Return the digest of each file below `folder`, by path, but of those in `without`.

    Links are followed. Raises OSError for what cannot be read, and ValueError for what is not a
    regular file.
    """
    return _digests(folder, [name for name in file_names(folder) if name not in without])


def _digests(folder: Path, names: Sequence[str]) -> dict[str, FileDigest]:
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda name: _digest(folder / name), names)
        return dict(zip(names, found, strict=True))


def path_digest(path: Path) -> str:
    """Return `sha256:<hex>` of a file's bytes, or of a folder's regular files, as `joined`.

    Links are followed. Raises OSError for what cannot be read.
    """
    if path.is_file():
        return f"sha256:{_digest(path).sha256}"
    return joined(_digests(path, [name for name in file_names(path) if (path / name).is_file()]))


def file_names(folder: Path) -> list[str]:
    """Return the paths of the files below `folder`, sorted, with `/` between their parts.

    A link to a folder is followed, as runtimes follow it; one to a folder that it is in is not.
    """
    return sorted(_walk(folder, folder, (os.path.realpath(folder),)))


def _walk(root: Path, folder: Path, above: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in list(entries):
            path = Path(entry.path)
            if not entry.is_dir():
                yield path.relative_to(root).as_posix()
            elif (real := os.path.realpath(path)) not in above:
                yield from _walk(root, path, (*above, real))


def size_faults(folder: Path, expected: Digests) -> dict[str, str]:
    """Return what is wrong with which file, as far as names and sizes tell: nothing is read.

    Raises OSError if the folder cannot be read.
    """
    there = set(file_names(folder))
    found = {name: "is missing" for name in expected if name not in there}
    for name in there:
        if name in expected and (fault := _size_fault(folder / name, expected[name])):
            found[name] = fault
    return found


def faults(folder: Path, expected: Digests, *, besides: Collection[str]) -> dict[str, str]:
    """Return what is wrong with which file in `folder`; empty if it is what was listed.

    A file that is missing, has another content, cannot be read, or is not listed is wrong. Those in
    `besides` need not be listed, nor hidden ones: file systems and desktops leave some (`.nfs...`,
    `.DS_Store`), and no runtime looks for them. Raises OSError if the folder cannot be read.
    """
    found = size_faults(folder, expected)
    sound = [name for name in expected if name not in found]
    with ThreadPoolExecutor(_THREADS) as threads:
        contents = threads.map(lambda name: _content_fault(folder / name, expected[name]), sound)
        found |= {name: fault for name, fault in zip(sound, contents, strict=True) if fault}
    visible = {name for name in file_names(folder) if not _is_hidden(name)}
    unlisted = visible - set(expected) - set(besides)
    return dict(sorted((found | dict.fromkeys(unlisted, "is not an exported file")).items()))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def joined(digests: Digests) -> str:
    """Return `sha256:<hex>` over the paths and digests of files: one digest of them all.

    Users pin folders by it (`--sha256`), so it stays as it is.
    """
    lines = "".join(f"{name}\0{digest.sha256}\n" for name, digest in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()}"


def _size_fault(path: Path, expected: FileDigest) -> str:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if size == expected.size else f"has {size} bytes instead of {expected.size}"


def _content_fault(path: Path, expected: FileDigest) -> str:
    try:
        found = _digest(path)
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return "" if found == expected else "was changed"


def _digest(path: Path) -> FileDigest:
    with _opened(path) as file:
        found = hashlib.file_digest(file, "sha256")
        return FileDigest(file.tell(), found.hexdigest())


def _opened(path: Path) -> FileIO:
    """Open a regular file. A pipe would block until something writes to it, so it is refused."""
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ValueError("it is not a regular file")
