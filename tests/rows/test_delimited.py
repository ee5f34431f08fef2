"""CSV and TSV as tables: headers, delimiters, and records that are wrong."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from mlserve.errors import UsageError
from mlserve.rows import delimited
from mlserve.rows.delimited import as_text, read_delimited
from mlserve.rows.table import BadRow, Row, Table


def _table(data: bytes | str, *known: str, delimiter: str | None = None) -> Table:
    raw = data.encode() if isinstance(data, str) else data
    return read_delimited("rows.csv", as_text(io.BytesIO(raw)), delimiter=delimiter, known=known)


def _rows(table: Table) -> list[Any]:
    """The cells of each row, or the place and message of a bad one."""
    return [
        [*row.cells.values()] if isinstance(row, Row) else f"{row.place}: {row.error.message}"
        for row in table.rows
    ]


@pytest.mark.parametrize("data", ["a,b\n1,x\n", "a;b\n1;x\n", "a\tb\r\n1\tx\r\n", "\ufeffa,b\n1,x"])
def test_a_header_and_a_row(data: str) -> None:
    table = _table(data)

    assert (table.columns, table.has_names) == (["a", "b"], True)
    assert _rows(table) == [["1", "x"]]


def test_a_comma_in_a_header_wins_over_a_semicolon() -> None:
    assert _table("a;b,c\n").columns == ["a;b", "c"]
    assert _table("a,b\tc\n", delimiter="\t").columns == ["a,b", "c"]


def test_quotes_newlines_and_empty_lines() -> None:
    table = _table('a,b\n\n"x, ""y""\nz",1\n"",2\n')

    rows = [*table.rows]
    assert [row.cells for row in rows if isinstance(row, Row)] == [
        {"a": 'x, "y"\nz', "b": "1"},
        {"a": "", "b": "2"},
    ]
    assert [(row.place.number, row.place.line) for row in rows] == [(1, 3), (2, 5)]


def test_a_single_empty_cell_is_a_row_if_quoted() -> None:
    assert _rows(_table('a\n""\n\n1\n')) == [[""], ["1"]]


def test_a_ragged_row_is_bad_and_the_others_are_not() -> None:
    assert _rows(_table("a,b\n1,2\n3\n4,5,6\n7,8\n")) == [
        ["1", "2"],
        "rows.csv, line 3: 1 cell where the header has 2",
        "rows.csv, line 4: 3 cells where the header has 2",
        ["7", "8"],
    ]


def test_a_stray_quote_is_bad_and_reading_goes_on() -> None:
    found = _rows(_table('a,b\n"x"y,2\n3,4\n'))

    assert found[0].startswith("rows.csv, line 2: it cannot be read as CSV: ")
    assert found[1] == ["3", "4"]


def test_a_cell_that_is_too_long_is_not_said_to_have_a_wrong_quote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delimited, "LARGEST_CELL", 8)
    [row, after] = _table("a,b\n1,123456789\n3,4\n").rows
    [unclosed] = _table('a,b\n1,"2\n3,4\n5,6\n').rows
    csv.field_size_limit(2**26)

    assert isinstance(row, BadRow)
    assert row.error.message == "a cell has more than 8 characters"
    assert row.error.hint == "send it from a file of its own: --input NAME=@FILE"
    assert isinstance(after, Row)
    assert isinstance(unclosed, BadRow)
    assert unclosed.error.message.startswith("a quote that is never closed makes lines 2 to 4 ")


def test_a_quote_that_is_never_closed_says_which_lines_it_took() -> None:
    assert _rows(_table('a,b\n1,2\n"x,3\n4,5\n6,7\n')) == [
        ["1", "2"],
        "rows.csv, line 3: a quote that is never closed makes lines 3 to 5 one cell; none of "  # noqa: ISC004
        "their rows is answered",
    ]


def test_bytes_that_are_not_utf8_are_a_bad_row() -> None:
    table = _table(b"a,b\nfine,1\nM\xfcller,2\n")

    assert _rows(table) == [
        ["fine", "1"],
        "rows.csv, line 3: column 'a': 'M\\udcfcller' is not UTF-8 text",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "rows.csv has no header: the file is empty"),
        ("\n1,2\n", "rows.csv has no header: the first line of the file is empty"),
        ("a,b,a\n1,2,3\n", "rows.csv has the column 'a' twice"),
        ("a,b\n".encode("utf-16"), "rows.csv is UTF-16, not UTF-8"),
        ("Größe,b\n1,2\n".encode("latin-1"), "the header of rows.csv is not UTF-8 text"),
        ('"a,b\n1,2\n', "the header of rows.csv cannot be read: unexpected end of data"),
    ],
)
def test_a_header_that_is_wrong(data: Any, message: str) -> None:
    with pytest.raises(UsageError) as wrong:
        _table(data)

    assert wrong.value.message == message
    assert wrong.value.hint


@pytest.mark.parametrize(
    ("header", "known", "has_names"),
    [
        ("5.1,3.5", (), False),
        ("5.1,", (), False),
        ("0,1", (), True),  # as pandas names columns
        ("2019,2020", (), False),
        ("2019,2020", ("2020",), True),
        ("5.1,x", (), True),
    ],
)
def test_a_first_line_of_numbers_is_a_row(
    header: str, known: tuple[str, ...], has_names: bool
) -> None:
    table = _table(f"{header}\n1,2\n", *known)

    assert table.has_names is has_names
    assert len([*table.rows]) == (1 if has_names else 2)


def test_the_lines_of_a_table_without_a_header_are_counted_from_one() -> None:
    rows = [*_table("5,6\n7\n").rows]

    assert [str(row.place) for row in rows] == ["rows.csv, line 1", "rows.csv, line 2"]
    assert isinstance(rows[1], BadRow)
