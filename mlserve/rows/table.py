"""A table: where its rows stand, their cells by column, and rows that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import UsageError, readable

MOST_HELD = 1000
"""Unreadable rows at the start of a table that are kept while its first row is looked for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: its file, its number from 1, and the file's line, if it has lines.

    Number 0 stands for the file as a whole.
    """

    file: str
    number: int
    line: int | None = None

    def __str__(self) -> str:
        if not self.number:
            return readable(self.file)
        where = f"row {self.number}" if self.line is None else f"line {self.line}"
        return f"{readable(self.file)}, {where}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its cells by the name of their column."""

    place: Place
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be sent, and why."""

    place: Place
    error: UsageError


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file, read as they are asked for.

    `columns` are the names of the header, or the keys of the first object; none if more than
    `MOST_HELD` unreadable rows come before it. `is_text`: cells are
    text, as in CSV; otherwise they are values. `is_fixed`: every row has the columns of the header.
    `has_names` is False for a file without a header; its columns are then called 1, 2, ...
    """

    file: str
    columns: Sequence[str]
    rows: Iterator[Row | BadRow]
    is_text: bool = False
    is_fixed: bool = False
    has_names: bool = True
