"""Which columns of a table become which input of a signature, and a row's values for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.client import ModelMetadata
from mlserve.client.question import signature_named
from mlserve.errors import InvalidInput, UsageError, first_of, readable, shortened
from mlserve.hints import did_you_mean, nearest
from mlserve.rows.cells import (
    WrongCell,
    is_number_text,
    is_number_value,
    nested_reader,
    text_reader,
    value_reader,
)
from mlserve.rows.table import Row, Table
from mlserve.tensors import DType, Signature, TensorSpec

_MATRIX = 2
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Feed:
    """One input and the columns that it is made of: one, or each number of a matrix's row."""

    spec: TensorSpec
    columns: tuple[str, ...]
    is_matrix: bool
    read: Callable[[Any], Any]

    def value(self, cells: Mapping[str, Any]) -> Any:
        """Return the row's element of the input. Raises InvalidInput, naming the column."""
        values = [self._cell(cells, column) for column in self.columns]
        return values if self.is_matrix else _wrapped(values[0], self.spec)

    def _cell(self, cells: Mapping[str, Any], column: str) -> Any:
        if column not in cells:
            raise _without(column, cells)
        try:
            return self.read(cells[column])
        except WrongCell as error:
            raise InvalidInput(
                f"column '{shortened(column)}': {error}",
                hint=f"the model takes {self.spec}",
            ) from error


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of a table become inputs.

    `unused` are the columns that no input takes. `is_by_order`: the columns were taken in their
    order, because the server or the table does not name them. `left_out` are the optional inputs
    that the first row does not have. `most_rows` is 1 for a model that takes one row at a time,
    else None.
    """

    feeds: tuple[Feed, ...]
    unused: tuple[str, ...]
    is_by_order: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def most_rows(self) -> int | None:
        """The most rows of one request; None if the model does not say."""
        return most_rows_of([feed.spec for feed in self.feeds])

    def inputs(self, row: Row) -> dict[str, Any]:
        """Return the row's element of each input. Raises InvalidInput, naming the column."""
        for name in self.left_out:
            if name in row.cells:
                raise InvalidInput(
                    f"it has '{shortened(name)}', which the first row does not have",
                    hint="give an optional input in every row, or in none",
                )
        return {feed.spec.name: feed.value(row.cells) for feed in self.feeds}


def most_rows_of(inputs: Sequence[TensorSpec]) -> int | None:
    """Return the most rows of one request with these inputs; None if the model does not say."""
    return 1 if any((spec.shape or (None,))[0] == 1 for spec in inputs) else None


def named_columns(metadata: ModelMetadata, signature: Signature) -> dict[str, tuple[str, ...]]:
    """Return the names of the columns of each matrix input, as far as the server gives them.

    They are the contract's `columns`, such as {"x": ["age", "height"]}.
    """
    found = (metadata.contract or {}).get("columns")
    named: dict[str, tuple[str, ...]] = {}
    for spec in signature.inputs:
        names = found.get(spec.name) if isinstance(found, Mapping) else None
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            named[spec.name] = tuple(names)
    return named


def has_dependent_rows(metadata: ModelMetadata) -> bool:
    """Return whether the server says that a row's answer depends on the rows beside it."""
    return (metadata.contract or {}).get("has_dependent_rows") is True


def signature_of(metadata: ModelMetadata, name: str | None) -> Signature:
    """Return the signature of that name; None is serving_default, or else the only one.

    `metadata` is what the server says when asked about that name. Raises NotFound or UsageError,
    with what there is, as `Client.infer` does.
    """
    if metadata.selectable and metadata.signatures:  # one nameless function, or what was asked for
        signature_named(metadata.model, metadata.selectable, name)
        return metadata.signatures[0]
    known = {signature.name: signature for signature in metadata.signatures}
    return known[signature_named(metadata.model, tuple(known), name)]


def outputs_of(signature: Signature, names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """Return the outputs of those names, in their order; None is all. Raises UsageError."""
    known = {spec.name: spec for spec in signature.outputs}
    if not known:  # a server of others need not list them
        return tuple(map(undeclared, names or ()))
    for name in names or ():
        if name not in known:
            raise UsageError(
                f"the signature {signature.name} has no output '{shortened(name)}'",
                hint=f"{did_you_mean(name, known)}choose among {_listed(list(known))}",
            )
    return tuple(known.values()) if names is None else tuple(known[name] for name in names)


def whole_outputs(specs: Sequence[TensorSpec]) -> set[str]:
    """Return the outputs that are not by rows: their first dimension has a fixed size."""
    return {spec.name for spec in specs if spec.shape and spec.shape[0] is not None}


def undeclared(name: str) -> TensorSpec:
    """Return what is known of an output that the server does not list."""
    return TensorSpec(name, DType.FLOAT64, None)


def known_names(signature: Signature, named: Mapping[str, Sequence[str]]) -> set[str]:
    """Return every name that a column can have."""
    return {spec.name for spec in signature.inputs}.union(*named.values())


def plan(
    table: Table, first: Row | None, signature: Signature, named: Mapping[str, tuple[str, ...]]
) -> Plan:
    """Return how the table becomes the signature's inputs; `first` is a row of it.

    A column goes to the input of its name; a matrix [N, n] is made of the columns that the server
    names, else of the table's columns of numbers if there are exactly n. Raises UsageError if a
    column is missing, or if an input does not have rows.
    """
    if not signature.inputs:
        raise UsageError(
            "the server does not list the inputs of the model, so columns cannot be assigned",
            hint="send one request: --input NAME=VALUE",
        )
    feeds: list[Feed] = []
    left_out: list[str] = []
    is_by_order = False
    for spec in signature.inputs:
        _require_rows(spec)
        names = named.get(spec.name, ())
        is_there = spec.name in table.columns or bool(set(names) & set(table.columns))
        if spec.name in signature.optional and not is_there:
            left_out += (spec.name, *names)
            continue
        if names and set(names) <= set(table.columns):
            feeds.append(_matrix(spec, names, table))
        elif spec.name in table.columns:
            feeds.append(_direct(spec, table))
        elif names and table.has_names:
            feeds.append(_matrix(spec, names, table))
        elif len(signature.required) == 1 and _is_matrix(spec):
            feeds.append(_matrix(spec, _in_order(spec, len(names), table, first), table))
            is_by_order = True
        else:
            feeds.append(_direct(spec, table))
    used = [column for feed in feeds for column in feed.columns]
    unused = tuple(name for name in table.columns if name not in used)
    if table.is_fixed:
        _require_columns(table, used, unused)
    return Plan(tuple(feeds), unused, is_by_order, tuple(left_out))


def _direct(spec: TensorSpec, table: Table) -> Feed:
    return Feed(spec, (spec.name,), is_matrix=False, read=_reader(spec, table, in_cell=spec.shape))


def _matrix(spec: TensorSpec, columns: tuple[str, ...], table: Table) -> Feed:
    return Feed(spec, columns, is_matrix=True, read=_reader(spec, table, in_cell=()))


def _reader(
    spec: TensorSpec, table: Table, *, in_cell: tuple[int | None, ...] | None
) -> Callable[[Any], Any]:
    """Return what reads a cell. With two dimensions or more in it, text may hold a JSON array.

    A cell that is one string, as for an input of strings [N, 1], is that text, even `["a"]`.
    """
    if not table.is_text:
        return value_reader(spec.dtype)
    if spec.dtype is DType.BYTES:
        is_array = any(size != 1 for size in (in_cell or ())[1:])
    else:
        is_array = in_cell is None or len(in_cell) > 1
    return nested_reader(spec.dtype) if is_array else text_reader(spec.dtype)


def _wrapped(value: Any, spec: TensorSpec) -> Any:
    """Return the value as the element of an input such as [N, 1], whose element is a list."""
    sizes = (spec.shape or ())[1:]
    is_single = not isinstance(value, list) and getattr(value, "ndim", 0) == 0
    if is_single and all(size in (None, 1) for size in sizes):
        for _ in sizes:
            value = [value]
    return value


def _is_matrix(spec: TensorSpec) -> bool:
    return spec.shape is not None and len(spec.shape) == _MATRIX


def _require_rows(spec: TensorSpec) -> None:
    if spec.shape is None or spec.shape[:1] in ((None,), (1,)):
        return
    takes = f"exactly {spec.shape[0]} rows" if spec.shape else "a single value"
    raise UsageError(
        f"the model takes {takes} for {spec}, so it cannot be asked row by row",
        hint=f"send one request: --input {spec.name}=VALUE",
    )


def _in_order(spec: TensorSpec, named: int, table: Table, first: Row | None) -> tuple[str, ...]:
    """Return the columns of a matrix in the order of the table.

    These are the columns of numbers; for an input of strings, all. An index without a name, as
    pandas writes it in front, is left out.
    """
    takes = named or (spec.shape or ())[1]
    columns = tuple(table.columns)
    if spec.dtype is not DType.BYTES and first is not None:
        is_number = is_number_text if table.is_text else is_number_value
        columns = tuple(name for name in columns if is_number(first.cells[name]))
    if takes is not None and len(columns) == takes + 1 and columns[0] == "":
        columns = columns[1:]
    if takes is None or len(columns) == takes:
        return columns
    what = "columns" if spec.dtype is DType.BYTES else "columns of numbers"
    raise UsageError(
        f"{readable(table.file)} has {len(columns)} {what}; the model takes {takes} as {spec}, "
        "and the server does not name them",
        hint=f"keep only the {takes} columns that the model was trained with, in the same order",
    )


def _require_columns(table: Table, used: Sequence[str], unused: Sequence[str]) -> None:
    """Raise UsageError, naming the columns that the table does not have."""
    missing = [name for name in used if name not in table.columns]
    if not missing:
        return
    near = nearest(missing[0], unused)
    guess = f"is it '{shortened(near)}'? rename that to '{shortened(missing[0])}'; " if near else ""
    raise UsageError(
        f"{readable(table.file)} has no column {_listed(missing)}",
        hint=f"{guess}the model takes the columns {_listed(used)}",
    )


def _without(column: str, cells: Mapping[str, Any]) -> InvalidInput:
    near = nearest(column, cells)
    return InvalidInput(
        f"there is no '{shortened(column)}'",
        hint=(f"is it '{shortened(near)}'? " if near else "")
        + "each object needs a key for every column that the model takes; null is a missing value",
    )


def _listed(names: Sequence[str]) -> str:
    return first_of(names, _SHOWN, quote="'")
