"""Read the rows of a table that was given to an export, as inputs of a model of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.errors import UsageError
from mlserve.rows.asking import ReadyRow
from mlserve.rows.files import Source
from mlserve.rows.kinds import FileKind, kind_by_name
from mlserve.rows.reading import RowReader
from mlserve.sources import TensorModel
from mlserve.tensors import DType, Signature

Inputs = dict[str, Any]
"""Arrays by name, a batch of one."""
_MOST_ROWS = 10_000
"""Rows that are kept in memory; of more, as many are chosen with a seed."""


@dataclass(frozen=True)
class RowInput:
    """One row of a table as inputs of the model."""

    name: str
    inputs: Inputs


def read_rows(
    path: Path | None, option: str, model: TensorModel, signature: Signature
) -> list[RowInput]:
    """Return rows of a table, all of them or a seeded choice. Raises UsageError."""
    if path is None:
        return []
    kind = kind_by_name(path.name)
    if path.is_dir() or kind is FileKind.IMAGE:
        raise UsageError(
            f"{option} {path} is not a table of rows, which {model.name} takes",
            hint="give a .npz, .npy, .csv, .tsv or .jsonl file with the inputs of the model",
        )
    reader = RowReader([Source(str(path), kind)], signature, model.columns, lambda _: None)
    chosen: list[tuple[int, RowInput]] = []
    rng = np.random.default_rng(0)
    for number, row in enumerate(reader.rows()):
        if not isinstance(row, ReadyRow):
            raise UsageError(f"{option} {row.place}: {row.error.message}", hint=row.error.hint)
        place = number if number < _MOST_ROWS else int(rng.integers(0, number + 1))
        if place >= _MOST_ROWS:
            continue  # each row is as likely to be chosen as any other
        item = (number, RowInput(str(row.place), _arrays(row, signature, option)))
        chosen[place : place + 1] = [item]
    if not chosen:
        raise UsageError(f"{option} {path} has no rows", hint="give at least a few")
    return [row for _, row in sorted(chosen, key=lambda item: item[0])]


def _arrays(row: ReadyRow, signature: Signature, option: str) -> Inputs:
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    try:
        return {name: _array(value, dtypes[name]) for name, value in row.inputs.items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"{option} {row.place} does not fit the inputs of the model: {error}",
            hint=f"the model takes {', '.join(map(str, signature.inputs))}",
        ) from error


def _array(value: Any, dtype: DType) -> Any:
    """Return one row's element of an input as a batch of one."""
    if dtype is not DType.BYTES:
        return np.asarray([value], dtype=np.dtype(dtype.label))
    texts = np.array([value], dtype=object)
    return np.vectorize(_encoded, otypes=[object])(texts)


def _encoded(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
