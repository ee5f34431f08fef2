"""Write a new backend's files from the template."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from mlserve import plugins
from mlserve.errors import UsageError

_TEMPLATE = "myruntime"
_CLASS = "MyRuntime"
_ENDING = ".txt"
"""Ends each file's name in the template, so that no tool takes it for code of mlserve."""
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def write_plugin(name: str, into: Path) -> list[Path]:
    """Write the backend's files into the folder `into`, which must be new; return their paths.

    Raises UsageError for a name that is not valid or is taken, and for a folder that exists or
    cannot be written.
    """
    _check_name(name)
    if into.exists():
        raise UsageError(
            f"{into} exists already", hint="choose another folder: --into DIR, or remove it"
        )
    try:
        return list(_written(name, into))
    except OSError as error:
        raise UsageError(
            f"{into} cannot be written: {error.strerror or error}",
            hint="choose a folder that you may write to: --into DIR",
        ) from error


def _written(name: str, into: Path) -> Iterator[Path]:
    root = files("mlserve.new_plugin") / "template"
    for source in sorted(_below(Path(str(root)))):
        target = into / _named(source.relative_to(str(root)).as_posix(), name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_named(source.read_text(), name))
        yield target


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a valid name of a backend",
            hint="start with a lower-case letter, then letters, digits and single underscores: "
            "my_runtime",
        )
    taken = sorted({*plugins.KNOWN, *plugins.installed()})
    if name in taken:
        raise UsageError(
            f"the name {name!r} is taken: a backend's name is its value of --backend",
            hint=f"choose a name other than {', '.join(taken)}",
        )


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(f"*{_ENDING}") if path.is_file()]


def _named(text: str, name: str) -> str:
    """Return the template's text or path for a backend of that name."""
    as_class = "".join(word.capitalize() for word in name.split("_"))
    return text.replace(_CLASS, as_class).replace(_TEMPLATE, name).removesuffix(_ENDING)
