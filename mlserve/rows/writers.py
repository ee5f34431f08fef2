"""Write the rows' answers: TSV for people, CSV, JSON, JSONL, and .npz."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlserve.errors import InferenceFailed, as_utf8, escaped
from mlserve.rows.asking import Outcome, RowAnswer, length_of
from mlserve.rows.columns import undeclared
from mlserve.rows.rendering import cell_text, json_value
from mlserve.rows.table import Place
from mlserve.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.client.outputs import Outputs
    from mlserve.rows.arrays import Array

Write = Callable[[str], None]
ROW, FILE, OUTPUTS, ERROR = "row", "file", "outputs", "error"
_VECTOR = 2


class Writer(Protocol):
    """Writes outcomes in the order of the rows; `finish` follows the last.

    `takes_errors`: errors are part of what it writes, so that they need not be told elsewhere.
    """

    takes_errors: bool

    def write(self, outcome: Outcome) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of the answers. `has_file`: several files are asked about.

    In a table, a vector of a known length k is k columns: name_0 ... name_(k-1); what has more
    dimensions, or an unknown length, is a JSON array in one column.
    """

    specs: tuple[TensorSpec, ...]
    has_file: bool

    @property
    def header(self) -> list[str]:
        """Return the names of a table's columns."""
        spread = [self._names(spec) for spec in self.specs]
        return [*self._keys(), *(name for names in spread for name in names)]

    def cells(self, answer: RowAnswer) -> list[str]:
        """Return a table's row. Raises InferenceFailed if an output is not as its spec says."""
        found = [*self._place(answer.place)]
        odd = answer.outputs.keys() ^ {spec.name for spec in self.specs}
        if odd:
            raise InferenceFailed(
                f"the server does not list the output {min(odd)!r}, or did not send it, so the "
                "answers have no fixed columns",
                hint="take --output jsonl, which writes what comes",
            )
        for spec in self.specs:
            value = json_value(answer.outputs[spec.name], spec)
            names = self._names(spec)
            if _size(spec) is None:
                found.append(cell_text(value))
            elif isinstance(value, list) and len(value) == len(names):
                found += map(cell_text, value)
            else:
                raise InferenceFailed(
                    f"the output {spec.name!r} is {cell_text(value)}, and the server says {spec}",
                    hint="take --output jsonl, which writes what comes",
                )
        return found

    def values(self, answer: RowAnswer) -> dict[str, Any]:
        """Return the outputs as JSON data, by name."""
        specs = {spec.name: spec for spec in self.specs}
        return {name: json_value(value, specs.get(name)) for name, value in answer.outputs.items()}

    def place_json(self, place: Place) -> dict[str, Any]:
        """Return what tells a row apart, as JSON data."""
        return {FILE: file_text(place), ROW: place.number} if self.has_file else {ROW: place.number}

    def output_name(self, name: str) -> str:
        """Return the column of an output; one called as the row's number gets a `_` behind."""
        return f"{name}_" if name in self._keys() else name

    def _keys(self) -> list[str]:
        return [FILE, ROW] if self.has_file else [ROW]

    def _place(self, place: Place) -> list[str]:
        return [str(value) for value in self.place_json(place).values()]

    def _names(self, spec: TensorSpec) -> list[str]:
        size = _size(spec)
        name = self.output_name(spec.name)
        return [name] if size in (None, 1) else [f"{name}_{at}" for at in range(size or 0)]


def _size(spec: TensorSpec) -> int | None:
    """Return the length of an output that is one vector a row; None for any other."""
    return spec.shape[1] if spec.shape is not None and len(spec.shape) == _VECTOR else None


class TableWriter:
    """Writes a header and a line a row, as CSV or, for people, as TSV without quotes."""

    takes_errors = False

    def __init__(self, write: Write, layout: Layout, *, has_header: bool = True) -> None:
        self._write = write
        self._layout = layout
        self._needs_header = has_header

    def write(self, outcome: Outcome) -> None:
        """Write the answer's row; a row with an error has none."""
        if isinstance(outcome, RowAnswer):
            cells = self._layout.cells(outcome)
            self._begin()
            self._line(cells)

    def finish(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._needs_header:
            self._line(self._layout.header)
        self._needs_header = False

    def _line(self, cells: Sequence[str]) -> None:
        self._write("\t".join(map(escaped, cells)) + "\n")


class CsvWriter(TableWriter):
    """Writes CSV, with quotes where they are needed: also for a lone carriage return in a text."""

    def __init__(self, write: Write, layout: Layout, *, has_header: bool = True) -> None:
        super().__init__(write, layout, has_header=has_header)
        self._csv = csv.writer(_UnixLines(write), lineterminator="\r\n")

    def _line(self, cells: Sequence[str]) -> None:
        self._csv.writerow(cells)


@dataclass(frozen=True, slots=True)
class _UnixLines:
    """What the csv module writes to, which quotes no other line ends than its own."""

    to: Write

    def write(self, line: str) -> None:
        self.to(line.removesuffix("\r\n") + "\n")


class JsonlWriter:
    """Writes an object a row: `{"row": 1, "outputs": {...}}`, or with `error` in place of it."""

    takes_errors = True

    def __init__(self, write: Write, layout: Layout) -> None:
        self._write = write
        self._layout = layout

    def write(self, outcome: Outcome) -> None:
        self._write(json_line(row_json(outcome, self._layout)))

    def finish(self) -> None:
        return


class JsonWriter:
    """Writes one object at the end: `{"predictions": [...]}` with what JSONL has line by line."""

    takes_errors = True

    def __init__(self, show: Callable[[Any], None], layout: Layout) -> None:
        self._show = show
        self._layout = layout
        self._rows: list[dict[str, Any]] = []
        self._server: dict[str, Any] = {}

    def write(self, outcome: Outcome) -> None:
        self._rows.append(row_json(outcome, self._layout))
        if isinstance(outcome, RowAnswer):
            server = outcome.server
            self._server = {name: getattr(server, name) for name in _OF_SERVER}

    def finish(self) -> None:
        self._show({"predictions": self._rows, **self._server})


_OF_SERVER = ("model", "version", "endpoint", "signature", "served_by")


class NpzWriter:
    """Writes a .npz file at the end: an array for each output, and `row`, the rows' numbers."""

    takes_errors = False

    def __init__(self, save: Callable[[Mapping[str, Any]], None], layout: Layout) -> None:
        self._save = save
        self._layout = layout
        self._rows: list[RowAnswer] = []

    def write(self, outcome: Outcome) -> None:
        """Keep the answer. Raises InferenceFailed if its shapes differ from the first row's."""
        from mlserve.rows.arrays import require_shapes  # numpy, for .npz alone

        if isinstance(outcome, RowAnswer):
            first = self._rows[0] if self._rows else outcome
            require_shapes(outcome.outputs, first.outputs)
            self._rows.append(outcome)

    def finish(self) -> None:
        columns: dict[str, list[Any]] = {}
        for answer in self._rows:
            for name, value in self._layout.place_json(answer.place).items():
                columns.setdefault(name, []).append(value)
            for name, value in answer.outputs.items():
                columns.setdefault(self._layout.output_name(name), []).append(value)
        specs = {self._layout.output_name(spec.name): spec for spec in self._layout.specs}
        self._save(arrays_of(columns, specs))


def row_json(outcome: Outcome, layout: Layout) -> dict[str, Any]:
    """Return a row's outcome as JSON data."""
    data = layout.place_json(outcome.place)
    if isinstance(outcome, RowAnswer):
        return {**data, OUTPUTS: layout.values(outcome)}
    line = {} if outcome.place.line is None else {"line": outcome.place.line}
    return {**data, **line, ERROR: outcome.error.to_json()}


def file_text(place: Place) -> str:
    """Return the name of the row's file as the results have it."""
    return as_utf8(place.file)


def json_line(data: Any) -> str:
    """Return data as one line of JSON."""
    return json.dumps(data, ensure_ascii=False) + "\n"


def rows_of(answer: Outputs, specs: Collection[TensorSpec] = ()) -> list[RowAnswer] | None:
    """Return the answer to one request as rows along the outputs' first dimension.

    None if the outputs do not all have the same one, or have it by chance: one is of a fixed
    length, and another is not.
    """
    if len({(spec.shape or (None,))[0] for spec in specs}) > 1:
        return None
    lengths = {length_of(value) for value in answer.values()}
    count = lengths.pop() if len(lengths) == 1 else None
    if count is None:
        return None
    places = (Place("", number + 1) for number in range(count))
    return [
        RowAnswer(place, {name: value[place.number - 1] for name, value in answer.items()}, answer)
        for place in places
    ]


def arrays_of(columns: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """Return outputs, or their values of each row, as arrays by name. Raises InferenceFailed."""
    from mlserve.rows.arrays import array_of  # numpy, for .npz alone

    return {name: array_of(name, value, specs.get(name)) for name, value in columns.items()}


def specs_of(signature: Signature, answer: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Return what the server says of the outputs in an answer, in the answer's order."""
    specs = {spec.name: spec for spec in signature.outputs}
    return tuple(specs.get(name) or undeclared(name) for name in answer)
