"""Go on with a file of results: which rows are in it, and repairing what a killed run left.

A half-written last line is removed, and so are lines with errors, whose rows are asked again. Who
writes a file holds a `flock` on it: of two that go on with it at once, each would ask about the
same rows, and the repairs of one would lose what the other writes.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mlserve.errors import UsageError, shortened
from mlserve.rows.delimited import LARGEST_CELL
from mlserve.rows.table import Place
from mlserve.rows.writers import ERROR, FILE, OUTPUTS, ROW, file_text

Key = tuple[str | None, int]
"""A row's file, None if only one is asked about, and its number."""
_QUOTE = b'"'


def key_of(place: Place, *, has_file: bool) -> Key:
    """Return what tells a row apart in a file of results."""
    return (file_text(place) if has_file else None, place.number)


def hold(file: BinaryIO, path: Path) -> None:
    """Keep the file of results that was opened at `path` for this process, until it is closed.

    Raises UsageError if another process holds it, or has put another one in its place.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held_elsewhere(path) from error
    except OSError:
        return  # a file system without locks
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise _held_elsewhere(path)


def rows_in_jsonl(path: Path, outputs: Collection[str] = (), *, has_file: bool) -> set[Key]:
    """Return the rows that the file has answers for, after repairing it.

    Raises UsageError, naming the line, for one that is not of `mlserve predict --output jsonl`,
    that lacks one of the `outputs`, or that names a file when only one is asked about.
    """
    found: set[Key] = set()

    def is_kept(number: int, line: bytes) -> bool:
        try:
            data = json.loads(line)
            key = (data.get(FILE), int(data[ROW]))
            names = data.get(OUTPUTS, {}).keys()
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise _not_results(path, number, line) from error
        if (FILE in data) != has_file:
            raise _other_rows(path, number, has_file=has_file)
        if ERROR in data:
            return False
        missing = [name for name in outputs if name not in names]
        if missing:
            raise _other_outputs(path, number, missing[0])
        found.add(key)
        return True

    _keep(path, _lines, is_kept)
    return found


def rows_in_table(path: Path, header: Sequence[str], delimiter: str) -> set[Key]:
    """Return the rows that a CSV or TSV file has answers for, after repairing it.

    Raises UsageError, naming the line, for one that does not have the columns `header`.
    """
    csv.field_size_limit(LARGEST_CELL)
    place = int(header[0] == FILE)
    found: set[Key] = set()

    def is_kept(number: int, record: bytes) -> bool:
        cells = _cells(record, delimiter)
        if number == 1:
            if cells != list(header):
                raise _other_columns(path, cells, header)
            return True
        if len(cells) != len(header) or not cells[place].isdecimal():
            raise _not_results(path, number, record)
        found.add((cells[0] if place else None, int(cells[place])))
        return True

    _keep(path, _records if delimiter == "," else _lines, is_kept)
    return found


def _keep(
    path: Path,
    split: Callable[[Iterable[bytes]], Iterator[bytes]],
    is_kept: Callable[[int, bytes], bool],
) -> None:
    """Remove the records that are not kept, and what follows the last whole one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with path.open("rb") as old, aside.open("wb") as new:
            hold(old, path)
            for number, record in enumerate(split(old), start=1):
                if is_kept(number, record):
                    new.write(record)
            new.flush()
            if new.tell() != path.stat().st_size:
                shutil.copymode(path, aside)
                aside.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read and repaired: {error.strerror}",
            hint="make room for a copy of it, or give another --output-file",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.endswith(b"\n"))


def _records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the whole records of CSV: the newlines inside quotes do not end one."""
    record = b""
    for line in lines:
        record += line
        if record.count(_QUOTE) % 2 == 0 and line.endswith(b"\n"):
            yield record
            record = b""


def _cells(record: bytes, delimiter: str) -> list[str]:
    text = record.decode(errors="backslashreplace")
    if delimiter != ",":
        return text.rstrip("\n").split(delimiter)
    return next(csv.reader(io.StringIO(text, newline="")), [])


def _held_elsewhere(path: Path) -> UsageError:
    return UsageError(
        f"another process writes to {path}",
        hint="wait until it ends, or stop it (lslocks shows which), and then go on with --resume",
    )


def _other_columns(path: Path, cells: Sequence[str], header: Sequence[str]) -> UsageError:
    return UsageError(
        f"{path} has the columns {shortened(', '.join(cells))}, and these answers have "
        f"{shortened(', '.join(header))}",
        hint="it has the answers to another question; give another --output-file",
    )


def _other_rows(path: Path, number: int, *, has_file: bool) -> UsageError:
    about = "one file, and this is about several" if has_file else "several files, and this is not"
    return UsageError(
        f"line {number} of {path} is of a run about {about}",
        hint="give the same files as then, or another --output-file",
    )


def _other_outputs(path: Path, number: int, name: str) -> UsageError:
    return UsageError(
        f"line {number} of {path} has no output '{shortened(name)}', which is asked for now",
        hint="it has the answers to another question; give another --output-file",
    )


def _not_results(path: Path, number: int, line: bytes) -> UsageError:
    shown = shortened(line.decode(errors="backslashreplace").rstrip())
    return UsageError(
        f"{path} cannot be gone on with: line {number} is not a result: {shown}",
        hint="give the file that mlserve predict wrote in the same format, or another name",
    )
