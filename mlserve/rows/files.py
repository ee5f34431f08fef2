"""Open the files that the command line names, as a table, or as the bytes of one value."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from mlserve.errors import UsageError
from mlserve.rows.kinds import STDIN, FileKind, Stdin
from mlserve.rows.table import Table

_NAME = "standard input"


def file_name(name: str) -> str:
    """Return the file's name in messages and results."""
    return _NAME if name == STDIN else name


def read_file(name: str) -> bytes:
    """Return the content of a file; `-` is standard input. Raises UsageError, naming it."""
    try:
        return Stdin().readall() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise unreadable_file(name, error) from error


def unreadable_file(name: str, error: OSError) -> UsageError:
    """Return the error for a file that cannot be read."""
    return UsageError(
        f"{file_name(name)} cannot be read: {error.strerror or error}",
        hint="give the path of a file",
    )


def require_file(name: str) -> None:
    """Raise UsageError, naming it, if there is no such file."""
    try:
        Path(name).stat()
    except OSError as error:
        raise unreadable_file(name, error) from error


def changed_at(name: str) -> float:
    """Return when a file was last written, in seconds of the epoch; 0 if that is not known."""
    try:
        return 0.0 if name == STDIN else Path(name).stat().st_mtime
    except OSError:  # what reads it says so
        return 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """A file with a table. `stdin` is what `-` stands for; `parsed` the data of a JSON file."""

    name: str
    kind: FileKind
    stdin: Stdin | None = None
    parsed: Any = None

    @contextmanager
    def opened(self, known: Collection[str], nameless: str) -> Iterator[Table]:
        """Open the table; its rows are read while the block runs.

        `known` are the names that columns can have; `nameless` is the column of a file with one
        array. Raises UsageError, naming the file.
        """
        file = file_name(self.name)
        if self.parsed is not None:
            from mlserve.rows.objects import read_array

            yield read_array(file, self.parsed)
            return
        with self._stream() as stream:
            if self.kind not in (FileKind.CSV, FileKind.TSV):
                yield _table(file, self.kind, stream, nameless)
                return
            from mlserve.rows.delimited import as_text, read_delimited

            delimiter = "\t" if self.kind is FileKind.TSV else None
            with as_text(stream) as text:
                yield read_delimited(file, text, delimiter=delimiter, known=known)

    def _stream(self) -> BinaryIO:
        try:
            return cast("BinaryIO", self.stdin) if self.stdin else Path(self.name).open("rb")
        except OSError as error:
            raise unreadable_file(self.name, error) from error


def _table(file: str, kind: FileKind, source: BinaryIO, nameless: str) -> Table:
    if kind in (FileKind.JSONL, FileKind.JSON):
        from mlserve.rows.objects import parse_json, read_array, read_jsonl

        if kind is FileKind.JSONL:
            return read_jsonl(file, _buffered(source))
        return read_array(file, parse_json(file, source.read()))
    from mlserve.rows.arrays import load_arrays, read_arrays

    loaded = load_arrays(file, io.BytesIO(source.read()))
    return read_arrays(file, loaded if isinstance(loaded, dict) else {nameless: loaded})


def _buffered(source: BinaryIO) -> BinaryIO:
    """Return a stream with fast lines."""
    return io.BufferedReader(source) if isinstance(source, io.RawIOBase) else source
