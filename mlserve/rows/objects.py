"""Read JSON tables: one object a line (JSONL), or one array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, BinaryIO

from mlserve.errors import InvalidInput, UsageError, shortened
from mlserve.rows.cells import parsed_json
from mlserve.rows.table import MOST_HELD, BadRow, Place, Row, Table

_OBJECTS = 'write one object a row, such as {"age": 41, "city": "Bern"}'


def read_jsonl(file: str, stream: BinaryIO) -> Table:
    """Return the table of a stream with one JSON object a line. Raises UsageError if it is empty.

    A line that is not an object is a BadRow; empty lines are skipped.
    """
    return _table(file, _lines(file, stream))


def read_array(file: str, objects: Any) -> Table:
    """Return the table of a JSON array of objects. Raises UsageError if it is not."""
    if not isinstance(objects, list):
        raise UsageError(
            f"{file} is not an array of rows",
            hint='give [{"age": 41}, {"age": 52}], one object a row; a request goes with --json',
        )
    rows = (_row(Place(file, at + 1), value) for at, value in enumerate(objects))
    return _table(file, rows)


def parse_json(file: str, data: bytes) -> Any:
    """Return the value of a whole JSON file. Raises UsageError, naming it."""
    try:
        return parsed_json(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{file} is not JSON: {error}", hint="for one object a line, name the file .jsonl"
        ) from error


def _table(file: str, rows: Iterator[Row | BadRow]) -> Table:
    """Return the table; its columns are the keys of the first row that can be read.

    There are none if more than `MOST_HELD` come before it.
    """
    start: list[Row | BadRow] = []
    for row in rows:
        start.append(row)
        if isinstance(row, Row) or len(start) > MOST_HELD:
            break
    if not start:
        raise UsageError(f"{file} has no rows", hint=_OBJECTS)
    first = start[-1]
    columns = tuple(first.cells) if isinstance(first, Row) else ()
    return Table(file, columns, chain(start, rows))


def _lines(file: str, stream: BinaryIO) -> Iterator[Row | BadRow]:
    number = 0
    for line, data in enumerate(stream, start=1):
        text = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
        if not text.strip():
            continue
        number += 1
        place = Place(file, number, line)
        try:
            value = parsed_json(text)
        except (ValueError, RecursionError) as error:
            yield BadRow(place, InvalidInput(f"it is not JSON: {error}", hint=_OBJECTS))
            continue
        yield _row(place, value)


def _row(place: Place, value: Any) -> Row | BadRow:
    if isinstance(value, Mapping):
        return Row(place, value)
    shown = shortened(json.dumps(value))
    return BadRow(place, InvalidInput(f"{shown} is not an object", hint=_OBJECTS))
