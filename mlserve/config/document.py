"""A TOML file that has been parsed, and errors that name the place in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve.artifact import read_plain
from mlserve.config.locate import PYPROJECT, TOOL, require_trusted
from mlserve.errors import UsageError

if TYPE_CHECKING:
    from mlserve.config.positions import Entry, Keys

_LARGEST = 2**20
_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
"""The end of tomllib's messages."""


@dataclass(frozen=True)
class Document:
    """A configuration file: its absolute path, its text, and its table.

    `root` are the keys of that table in the file; it `exists` if it is there at all.
    """

    path: Path
    text: str = field(repr=False)
    root: tuple[str, ...]
    table: dict[str, Any]
    exists: bool = True

    @property
    def folder(self) -> Path:
        """Return the folder that relative paths in the file start from."""
        return self.path.parent

    @property
    def shown(self) -> str:
        """Return the path as messages show it: relative to the current folder if below that."""
        with suppress(ValueError, OSError):
            return str(self.path.relative_to(Path.cwd()))
        return str(self.path)

    def place(self, keys: Keys, *, of_value: bool = False) -> str:
        """Return `FILE:LINE:COLUMN` of that key, or of its value."""
        known: Keys = (*self.root, *keys)
        while known and known not in self._entries:
            known = known[:-1]
        if not known:
            return self.shown
        entry = self._entries[known]
        return f"{self.shown}:{entry.value if of_value else entry.key}"

    def error(self, keys: Keys, message: str, hint: str, *, of_value: bool = False) -> UsageError:
        """Return an error about the key, or its value, that begins with the place of it."""
        return UsageError(f"{self.place(keys, of_value=of_value)}: {message}", hint=hint)

    @cached_property
    def _entries(self) -> dict[Keys, Entry]:
        from mlserve.config.positions import entries_of

        return entries_of(self.text)


def first_of(paths: Sequence[Path], *, are_found: bool) -> Document | None:
    """Return the first of the files that is a configuration; None if none is.

    That is each but a pyproject.toml without our table. Raises UsageError for a file that cannot be
    read or is not TOML, and, if the files `are_found` and not named by the user, for one that
    another user may have written.
    """
    for path in paths:
        document = read_document(path)
        if document.exists and are_found:
            require_trusted(path)
        if document.exists:
            return document
    return None


def read_document(path: Path) -> Document:
    """Read and parse the file; of a pyproject.toml, the table [tool.mlserve], empty if absent.

    Raises UsageError with line and column for bad syntax, and for a file that cannot be read.
    """
    text = _read(path)
    root = TOOL if path.name == PYPROJECT else ()
    document = Document(path.absolute(), text, root, {})
    try:
        table: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(document, str(error)) from error
    for name in root:
        table = table.get(name) if isinstance(table, dict) else None
    return replace(document, table=table or {}, exists=isinstance(table, dict))


def _read(path: Path) -> str:
    try:
        return read_plain(path, _LARGEST).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: the file is not UTF-8", hint="save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"the configuration file {path} cannot be read: {reason}",
            hint="give the path of a TOML file that this user may read",
        ) from error


def _syntax_error(document: Document, said: str) -> UsageError:
    found, text = _PLACE.search(said), document.text
    line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    if found is not None and found["line"]:
        line, column = int(found["line"]), int(found["column"])
    what = said if found is None else said[: found.start()]
    return UsageError(
        f"{document.shown}:{line}:{column}: this is not TOML: {what}",
        hint='correct that line; a text is in quotes: backend = "onnxruntime"',
    )
