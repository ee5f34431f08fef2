"""The rows of several files in turn, as the inputs of one signature."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from mlserve.errors import InvalidInput, UsageError, first_of, readable
from mlserve.rows.asking import ReadyRow
from mlserve.rows.columns import Plan, known_names, most_rows_of, plan
from mlserve.rows.files import Source, file_name, unreadable_file
from mlserve.rows.table import MOST_HELD, BadRow, Place, Row, Table
from mlserve.tensors import Signature

_NAMES_SHOWN = 10


class RowReader:
    """Reads tables, one after the other, and turns each row into inputs.

    `named` are the names of the columns of matrix inputs; `tell` receives a note about a file, once
    for each. `most_rows` is the most rows that the model takes in one request, None if it does not
    say; it is known once the first row has been read.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        signature: Signature,
        named: Mapping[str, tuple[str, ...]],
        tell: Callable[[str], None],
    ) -> None:
        self._sources = sources
        self._signature = signature
        self._named = named
        self._tell = tell
        self.most_rows: int | None = None

    def rows(self) -> Generator[ReadyRow | BadRow, None, None]:
        """Yield each row. A file that cannot be read is one BadRow with number 0.

        Raises UsageError for the only file.
        """
        for source in self._sources:
            try:
                yield from self._rows_of(source)
            except UsageError as error:
                yield self._bad_file(source, error)
            except OSError as error:
                yield self._bad_file(source, unreadable_file(source.name, error))

    def _bad_file(self, source: Source, error: UsageError) -> BadRow:
        if len(self._sources) == 1:
            raise error
        return BadRow(Place(file_name(source.name), 0), error)

    def _rows_of(self, source: Source) -> Iterator[ReadyRow | BadRow]:
        known = known_names(self._signature, self._named)
        nameless = next((spec.name for spec in self._signature.required), "")
        with source.opened(known, nameless) as table:
            unreadable, first = _first_row(table)
            if len(unreadable) > MOST_HELD:
                self.most_rows = most_rows_of(self._signature.inputs)
                yield from unreadable
                unreadable, first = [], (yield from _after_unreadable(table))
                if first is not None and not table.is_fixed:
                    table = replace(table, columns=tuple(first.cells))  # noqa: PLW2901
            found = plan(table, first, self._signature, self._named)
            self.most_rows = found.most_rows
            self._tell_of(table, found)
            yield from unreadable
            for row in table.rows if first is None else chain([first], table.rows):
                yield _ready(row, found)

    def _tell_of(self, table: Table, found: Plan) -> None:
        file = readable(table.file)
        if found.is_by_order:
            names = [name for feed in found.feeds for name in feed.columns]
            why = (
                f"the server does not name the columns of {found.feeds[0].spec.name!r}"
                if table.has_names
                else f"{file} has no header (its first line is numbers)"
            )
            self._tell(f"note: {why}; taken in the order of the file: {_listed(names)}")
        if found.unused:
            self._tell(
                f"note: columns of {file} that the model does not take: {_listed(found.unused)}"
            )


def _first_row(table: Table) -> tuple[list[BadRow], Row | None]:
    """Return the first row that can be read, and those before it.

    There is none if more than `MOST_HELD` come before it.
    """
    unreadable: list[BadRow] = []
    for row in table.rows:
        if isinstance(row, Row):
            return unreadable, row
        unreadable.append(row)
        if len(unreadable) > MOST_HELD:
            break
    return unreadable, None


def _after_unreadable(table: Table) -> Generator[BadRow, None, Row | None]:
    """Yield the rows before the first that can be read, and return that one."""
    for row in table.rows:
        if isinstance(row, Row):
            return row
        yield row
    return None


def _ready(row: Row | BadRow, found: Plan) -> ReadyRow | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        return ReadyRow(row.place, found.inputs(row))
    except InvalidInput as error:
        return BadRow(row.place, error)


def _listed(names: Sequence[str]) -> str:
    return first_of([name or "(no name)" for name in names], _NAMES_SHOWN)
