"""Read CSV and TSV: a header, then one row a record; a bad record does not stop the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from mlserve.errors import InvalidInput, UsageError, counted, shortened
from mlserve.rows.cells import is_number_text
from mlserve.rows.table import BadRow, Place, Row, Table

LARGEST_CELL = 2**26
"""Characters; the csv module's own limit is too small for an image in base64."""
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")
_ENCODING, _ERRORS = "utf-8-sig", "surrogateescape"
_SURROGATES = ("\udc80", "\udcff")


def read_delimited(
    file: str, text: TextIO, *, delimiter: str | None, known: Collection[str] = ()
) -> Table:
    """Return the table in a text stream with `newline=""` and `errors="surrogateescape"`.

    `delimiter` None takes what the header has: a comma, else a semicolon, else a tab. A first line
    of numbers only is a row, not a header, unless it has a name in `known` or counts from 0, as
    pandas names columns. Raises UsageError if there is no header or it has a name twice.
    """
    csv.field_size_limit(LARGEST_CELL)
    first = _first_line(file, text)
    reader = csv.reader(_Lines(first, text), delimiter=delimiter or _delimiter(first), strict=True)
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise UsageError(
            f"the header of {file} cannot be read: {error}", hint="put names with commas in quotes"
        ) from error
    if not all(map(_is_utf8, header)):
        raise UsageError(f"the header of {file} is not UTF-8 text", hint="save the file in UTF-8")
    if _is_header(header, known):
        _require_distinct(file, header)
        return Table(file, header, _rows(file, reader, header), is_text=True, is_fixed=True)
    names = [str(number + 1) for number in range(len(header))]
    rows = _with_first(file, header, names, reader)
    return Table(file, names, rows, is_text=True, is_fixed=True, has_names=False)


def open_text(file: str) -> TextIO:
    """Open a file for `read_delimited`. Raises OSError."""
    return Path(file).open(encoding=_ENCODING, errors=_ERRORS, newline="")


def as_text(stream: BinaryIO) -> TextIO:
    """Return the text of a binary stream; bytes that are not UTF-8 are found when read."""
    return io.TextIOWrapper(
        io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream,
        encoding=_ENCODING,
        errors=_ERRORS,
        newline="",
    )


class _Records(Protocol):
    """The csv module's reader: the cells of each record, and how many lines it has read."""

    line_num: int

    def __next__(self) -> list[str]: ...


class _Lines:
    """The lines of a text, of which the first has been read already."""

    def __init__(self, first: str, rest: TextIO) -> None:
        self._first: str | None = first
        self._rest = rest

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, self._first = self._first, None
        return next(self._rest) if line is None else line


def _first_line(file: str, text: TextIO) -> str:
    line = next(iter(text), "")
    if line.startswith(_UTF16):
        raise UsageError(f"{file} is UTF-16, not UTF-8", hint="save it as CSV in UTF-8")
    if not line.strip():
        what = "the first line of the file is empty" if line else "the file is empty"
        raise UsageError(f"{file} has no header: {what}", hint="its first line names the columns")
    return line


def _delimiter(line: str) -> str:
    return next((mark for mark in ",;\t" if mark in line), ",")


def _is_header(cells: Sequence[str], known: Collection[str]) -> bool:
    if any(cell in known for cell in cells) or not all(map(is_number_text, cells)):
        return True
    return list(cells) == [str(number) for number in range(len(cells))]


def _require_distinct(file: str, header: Sequence[str]) -> None:
    twice = next((name for at, name in enumerate(header) if name in header[:at]), None)
    if twice is not None:
        raise UsageError(
            f"{file} has the column '{shortened(twice)}' twice",
            hint="give each column a name of its own in the first line",
        )


def _with_first(
    file: str, cells: Sequence[str], names: Sequence[str], reader: _Records
) -> Iterator[Row | BadRow]:
    yield Row(Place(file, 1, reader.line_num), dict(zip(names, cells, strict=True)))
    yield from _rows(file, reader, names, number=1)


def _rows(
    file: str, reader: _Records, header: Sequence[str], number: int = 0
) -> Iterator[Row | BadRow]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield BadRow(Place(file, number, line), _unreadable(error, line, reader.line_num))
            continue
        if not cells:
            continue  # an empty line; a row with one empty cell is written as ""
        number += 1
        place = Place(file, number, line)
        fault = _fault(cells, header)
        yield (
            Row(place, dict(zip(header, cells, strict=True)))
            if fault is None
            else BadRow(place, fault)
        )


def _fault(cells: Sequence[str], header: Sequence[str]) -> InvalidInput | None:
    if len(cells) != len(header):
        return InvalidInput(
            f"{counted(len(cells), 'cell')} where the header has {len(header)}",
            hint="put a cell that has the delimiter in it in quotes",
        )
    for name, cell in zip(header, cells, strict=True):
        if not _is_utf8(cell):
            return InvalidInput(
                f"column '{shortened(name)}': '{shortened(cell)}' is not UTF-8 text",
                hint="save the file in UTF-8",
            )
    return None


def _is_utf8(cell: str) -> bool:
    return cell.isascii() or not any(_SURROGATES[0] <= char <= _SURROGATES[1] for char in cell)


def _unreadable(error: csv.Error, first: int, last: int) -> InvalidInput:
    is_long = "field limit" in str(error)
    if is_long and first == last:
        return InvalidInput(
            f"a cell has more than {LARGEST_CELL} characters",
            hint="send it from a file of its own: --input NAME=@FILE",
        )
    if is_long or "unexpected end of data" in str(error):
        return InvalidInput(
            f"a quote that is never closed makes lines {first} to {last} one cell; none of their "
            "rows is answered",
            hint="close the quote, or write a quote inside a cell twice",
        )
    return InvalidInput(
        f"it cannot be read as CSV: {error}", hint='write a quote inside a cell twice: "a ""b"" c"'
    )
