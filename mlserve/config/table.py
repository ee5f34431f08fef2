"""One table of a configuration file: its keys and its values, checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from mlserve.config.document import Document
from mlserve.errors import UsageError, shortened
from mlserve.hints import did_you_mean
from mlserve.options import AUTO, Description, Options, described
from mlserve.paths import expanded

SERVERS = "servers"
"""The table of the servers; all other tables are those of commands."""
AnyOptions = TypeVar("AnyOptions", bound=Options)
_FLAG = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
_MOST_LISTED = 12


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a document: `keys` are the way to it."""

    document: Document
    keys: tuple[str, ...]
    values: dict[str, Any]

    @property
    def title(self) -> str:
        """Return what the table's header says: `servers.line`."""
        return ".".join((*self.document.root, *self.keys))

    def require_known(self, known: Collection[str]) -> None:
        """Raise UsageError, with the nearest known key, for the first key that is not one."""
        for key in self.values:
            if key not in known:
                listed = sorted(known)
                those = f"the keys here are {', '.join(listed)}"
                meant = did_you_mean(key.replace("-", "_"), known)
                raise self.error(
                    key,
                    f"{shortened(key)!r} is not a key of {_named(self.title)}",
                    meant.rstrip() or (those if len(listed) <= _MOST_LISTED else _SEE),
                )

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yield the tables in this one by name. Raises UsageError for anything else in it."""
        for key in self.values:
            yield key, self.table(key)

    def table(self, key: str) -> Table:
        """Return the table of that name, empty if absent. Raises UsageError for another value."""
        inner = self.values.get(key, {})
        table = Table(self.document, (*self.keys, key), inner)
        if not isinstance(inner, dict):
            header = f"[{table.title}]"
            raise self.error(
                key, f"{key} must be a table", f"begin it with a line of its own: {header}"
            )
        return table

    def options(self, kind: type[AnyOptions], defaults: AnyOptions | None = None) -> AnyOptions:
        """Return the options of that class which stand in the table, over `defaults`.

        Paths are absolute. Raises UsageError with the place of a wrong value.
        """
        given = {item.name: self.read(item) for item in described(kind) if item.name in self.values}
        inherited = {} if defaults is None else defaults.changed
        try:
            return kind(**{**inherited, **given})
        except UsageError as error:  # one that several options together make wrong
            raise self.located(error) from error

    def read(self, item: Description) -> Any:
        """Return the value of that option. Raises UsageError with its place."""
        choices = list(item.kind) if issubclass(item.kind, StrEnum) else ()
        if item.takes_auto and self.values[item.name] == AUTO:
            return None
        value = self.value(item.name, item.kind, choices)
        if item.kind is Path:
            return value
        read = item.read(value)
        try:
            item.check(read)
        except UsageError as error:
            raise self.reworded(error, item.name) from error
        return read

    def value(self, key: str, kind: type, choices: Sequence[str] = ()) -> Any:
        """Return the value of that key, of that type, and one of the choices if there are any.

        A path is absolute. Raises UsageError with the place of the value.
        """
        value = self.values[key]
        if not _has_type(value, kind) or (choices and value not in choices):
            wanted = " or ".join(f'"{choice}"' for choice in choices) or _WORDS[kind.__name__]
            raise self.error(
                key, f"{key} must be {wanted}, not {_shown(value)}", _SEE, of_value=True
            )
        return self.path(key, value) if kind is Path else value

    def path(self, key: str, text: str) -> Path:
        """Return the path that a key's value names; a relative one starts at the file's folder."""
        try:
            return self.document.folder / expanded(text)
        except UsageError as error:
            raise self.error(key, error.message, error.hint or "", of_value=True) from error

    def located(self, error: UsageError) -> UsageError:
        """Return an error about flags as one about the first of their keys in this table."""
        named = [name for name in _FLAG.findall(error.message) if _key(name) in self.values]
        return self.reworded(error, _key(named[0]) if named else None)

    def reworded(self, error: UsageError, key: str | None) -> UsageError:
        """Return an error about flags as one about keys of this table."""
        message, hint = (
            _FLAG.sub(lambda found: _key(found[1]), text or "")
            for text in (error.message, error.hint)
        )
        return self.error(key, message, hint, of_value=True)

    def error(
        self, key: str | None, message: str, hint: str, *, of_value: bool = False
    ) -> UsageError:
        """Return an error with the place of the key in this table, or of the table itself."""
        keys = self.keys if key is None else (*self.keys, key)
        return self.document.error(keys, message, hint, of_value=of_value and key is not None)


_SEE = "`mlserve config show --all` lists the keys, with their values"


def _key(flag: str) -> str:
    return flag.replace("-", "_")


def _named(title: str) -> str:
    return f"[{title}]" if title else "the file"


def _has_type(value: object, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, int if kind is int else str)


_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "Path": "a path in quotes",
    "str": "a text in quotes",
}
"""What a value must be, by the name of its type: mypy takes no class for hashable."""


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{shortened(value)}"'
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return shortened(str(value))
