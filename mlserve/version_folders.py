"""Which folder holds which version of a model.

A folder whose name is a number is that version, with or without zeros in front: TensorFlow's own
exporters have written `00000123` (file_system_storage_path_source.cc reads it as 123).
"""

from __future__ import annotations

import os
from pathlib import Path

LARGEST = 2**63 - 1


def version_of(name: str) -> int | None:
    """The version that a folder of that name holds; None for a name that is not a version."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name)
    return number if number <= LARGEST else None


def folders_by_version(base_path: Path) -> dict[int, list[str]]:
    """The names of the folders of each version, the one that counts first. Raises OSError.

    Of several names of one number the shortest counts.
    """
    with os.scandir(base_path) as entries:
        names = sorted((e.name for e in entries if e.is_dir()), key=lambda name: (len(name), name))
    found: dict[int, list[str]] = {}
    for name in names:
        version = version_of(name)
        if version is not None:
            found.setdefault(version, []).append(name)
    return dict(sorted(found.items()))


def version_folder(base_path: Path, version: int) -> Path:
    """The folder of that version, or where it would be where there is none."""
    usual = base_path / str(version)
    if usual.is_dir():
        return usual
    try:
        names = folders_by_version(base_path).get(version, [usual.name])
    except OSError:
        return usual
    return base_path / names[0]
