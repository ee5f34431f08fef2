"""Write the files of a deployment: all aside, then renamed, and never over another's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlserve.errors import UsageError

MARK = "Written by `mlserve deploy"
"""Stands in the first lines of every file that `mlserve deploy` writes, where comments may."""
_MARKED_WITHIN = 400


def write_files(files: Mapping[str, str], folder: Path, *, force: bool = False) -> list[Path]:
    """Write texts by their paths below `folder`; return the paths written, in that order.

    A file that `mlserve deploy` wrote is replaced. One that somebody else wrote stays, and then
    nothing is written, unless `force`. Raises UsageError.
    """
    targets = {folder / name: text for name, text in files.items()}
    if not force:
        _require_ours(list(targets))
    try:
        _replace_all(targets)
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}",
            hint="choose a folder that you may write to: --output-dir DIR",
        ) from error
    return list(targets)


def as_one_text(files: Mapping[str, str]) -> str:
    """Return all files as one text: documents of YAML, each below a comment with its name."""
    return "".join(f"---\n# {name}\n{text}" for name, text in files.items())


def left_over(written: Sequence[Path], command: str) -> list[Path]:
    """Return the files beside those `written` that an earlier call of the command wrote."""
    beside = {path for folder in {p.parent for p in written} for path in folder.glob("*.yaml")}
    ours = f"{MARK} {command}`"
    return sorted(path for path in beside.difference(written) if ours in _start_or_none(path))


def _start(path: Path) -> str:
    with path.open(errors="replace") as file:
        return file.read(_MARKED_WITHIN)


def _start_or_none(path: Path) -> str:
    """Return no text for what is no file, or another's that may not be read."""
    try:
        return _start(path) if path.is_file() else ""
    except OSError:
        return ""


def _require_ours(paths: list[Path]) -> None:
    for path in paths:
        try:
            start = _start(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror or error}",
                hint="choose another folder: --output-dir DIR",
            ) from error
        if MARK not in start:
            raise UsageError(
                f"{path} was not written by mlserve deploy, so nothing is written",
                hint="choose another folder with --output-dir, or overwrite it with --force",
            )


def _replace_all(targets: Mapping[Path, str]) -> None:
    """Write every text aside before one is renamed: a full disk must not leave old beside new."""
    asides: dict[Path, Path] = {}
    try:
        for path, text in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            number, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            asides[path] = Path(aside)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), _mode())
        for path, ready in asides.items():
            ready.replace(path)
    finally:
        for aside_path in asides.values():
            aside_path.unlink(missing_ok=True)


def _mode() -> int:
    """Return the mode of a new file; the umask can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
