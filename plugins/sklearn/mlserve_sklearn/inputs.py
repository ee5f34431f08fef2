"""The inputs of a fitted estimator, and how its rows are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlserve.errors import ExportError, InvalidInput, shortened
from mlserve.sources import How
from mlserve.tensors import DType, TensorSpec
from mlserve_sklearn.columns import Array, Column, dropped_columns, fitted_columns, takes_text

if TYPE_CHECKING:
    from mlserve.backend import Tensors

MATRIX, TEXT = "x", "text"


@dataclass(frozen=True, slots=True)
class Inputs:
    """How an estimator takes its rows.

    `is_frame`: it was fitted on a data frame. `is_matrix`: all columns are sent as one tensor `x`.
    `is_text`: it takes a list of texts and has one column.
    """

    columns: tuple[Column, ...]
    is_frame: bool
    is_matrix: bool
    is_text: bool = False
    matrix_dtype: DType = DType.FLOAT64

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of the signature."""
        if self.is_matrix:
            return (TensorSpec(MATRIX, self.matrix_dtype, (None, len(self.columns))),)
        return tuple(TensorSpec(column.name, column.dtype, (None,)) for column in self.columns)

    def split(self, inputs: Tensors) -> Mapping[str, Array]:
        """Return the values of each column by its name."""
        if not self.is_matrix:
            return inputs
        return {column.name: inputs[MATRIX][:, i] for i, column in enumerate(self.columns)}

    def joined(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the inputs of these values by column: the opposite of `split`."""
        if not self.is_matrix:
            return {spec.name: values[spec.name] for spec in self.specs}
        return {MATRIX: np.stack([values[column.name] for column in self.columns], axis=1)}

    def rows(self, inputs: Tensors) -> Any:
        """Return what the estimator's methods take. Raises InvalidInput for what is not UTF-8."""
        if self.is_matrix and not self.is_frame:
            x = inputs[MATRIX]
            # A copy, as an estimator with `copy=False` overwrites what it is given.
            return x.copy() if x.dtype != object else _texts(x.T, self.columns).T
        if self.is_matrix and not any(column.categories for column in self.columns):
            # At once: hundreds of columns, one by one, take longer than most models.
            names = [column.name for column in self.columns]
            return pd.DataFrame(inputs[MATRIX], columns=names, copy=True)
        columns = {column.name: column for column in self.columns}
        values = {
            name: _texts(array[None], (columns[name],))[0] if array.dtype == object else array
            for name, array in self.split(inputs).items()
        }
        if self.is_text:
            return next(iter(values.values()))
        if not self.is_frame:
            return np.stack([values[name].astype(object) for name in columns], axis=1)
        series = {name: _series(values[name], column) for name, column in columns.items()}
        return pd.DataFrame(series, copy=False)


def inputs_of(estimator: Any, given: Sequence[TensorSpec] = ()) -> Inputs:
    """Return what the estimator takes; `given` are the user's own words for its inputs.

    Columns of which nothing is known are `ASSUMED` to be numbers. Raises ExportError when `given`
    does not fit, and for an estimator that does not say how many columns it has.
    """
    found = fitted_columns(estimator)
    if takes_text(estimator):
        text = replace(found[0], name=TEXT)
        return _as_given(Inputs((text,), is_frame=False, is_matrix=False, is_text=True), given)
    names = getattr(estimator, "feature_names_in_", None)
    count = getattr(estimator, "n_features_in_", len(names) if names is not None else None)
    if count is None:
        raise ExportError(
            f"{type(estimator).__name__} does not say how many columns it was fitted on",
            hint="fit it on an array or a data frame, in a pipeline if it needs other steps",
        )
    known = [str(name) for name in names] if names is not None else [f"x{i}" for i in range(count)]
    columns = [
        replace(found.get(i, Column("")), name=name, index=i) for i, name in enumerate(known)
    ]
    if names is not None:
        dropped = dropped_columns(estimator)
        columns = [column for column in columns if column.index not in dropped]
    types = {column.dtype for column in columns}
    is_text = types == {DType.BYTES} and names is None
    has_large = any(column.has_large for column in columns)
    # A frame has a type for each column, and an array one for all.
    is_matrix = is_text or (DType.BYTES not in types and (names is None or not has_large))
    dtype = DType.BYTES if is_text else DType.INT64 if has_large else DType.FLOAT64
    plan = Inputs(tuple(columns), names is not None, is_matrix, matrix_dtype=dtype)
    return _as_given(plan, given)


def with_type(inputs: Inputs, name: str, dtype: DType) -> Inputs:
    """Return the inputs with a type that was found out for one column, sent by name if a string."""
    columns = tuple(
        _of_type(column, dtype, How.FOUND) if column.name == name else column
        for column in inputs.columns
    )
    is_matrix = inputs.is_matrix and all(column.dtype is not DType.BYTES for column in columns)
    return replace(inputs, columns=columns, is_matrix=is_matrix)


def _as_given(inputs: Inputs, given: Sequence[TensorSpec]) -> Inputs:
    if not given:
        return inputs
    matrix = TensorSpec(MATRIX, given[0].dtype, (None, len(inputs.columns)))
    if tuple(given) == (matrix,) and not inputs.is_text:
        if inputs.is_matrix and matrix.dtype is inputs.matrix_dtype:
            return inputs
        columns = tuple(_of_type(column, matrix.dtype, How.GIVEN) for column in inputs.columns)
        return replace(inputs, columns=columns, is_matrix=True, matrix_dtype=matrix.dtype)
    told = {spec.name: spec.dtype for spec in given}
    names = {column.name for column in inputs.columns}
    if set(told) != names or any(spec.shape != (None,) for spec in given):
        raise ExportError(
            f"the inputs that are given, {', '.join(map(str, given))}, do not fit the columns of "
            f"the estimator: {', '.join(column.name for column in inputs.columns)}",
            hint=f"give --input NAME:DTYPE[?] once for each column, or once '{matrix}'",
        )
    columns = tuple(
        column
        if column.dtype is told[column.name]
        else _of_type(column, told[column.name], How.GIVEN)
        for column in inputs.columns
    )
    return replace(inputs, columns=columns, is_matrix=False)


def _of_type(column: Column, dtype: DType, how: How) -> Column:
    """Return the column with another type; what was seen in it counts only for the same type."""
    if column.dtype is dtype:
        return replace(column, how=how)
    return Column(column.name, column.index, dtype, how)


def _texts(columns: Array, about: Sequence[Column]) -> Array:
    """Return an array [columns, rows] of bytes as one of strings, with what stands for missing."""
    texts = np.empty(columns.shape, dtype=object)
    for (i, row), value in np.ndenumerate(columns):
        try:
            texts[i, row] = value.decode() or about[i].missing
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"row {row} of the column {about[i].name!r} is not UTF-8 text",
                hint="send text as UTF-8",
            ) from error
    return texts


def _series(values: Array, column: Column) -> Any:
    """Return a column of a data frame. Raises InvalidInput for an unknown category."""
    if not column.categories and values.dtype != object:
        # A Series of each would take most of the time of a wide frame. It would be a copy as well,
        # which a step may overwrite.
        return values.copy()
    if not column.categories:
        # With the dtype, or pandas would turn objects into its own strings, in which None is NaN.
        return pd.Series(values, dtype=object)
    kind = np.array(column.categories).dtype
    if kind.kind in "ib" and values.dtype.kind == "f" and (np.mod(values, 1) == 0).all():
        values = values.astype(kind)  # a matrix has them as float64
    categories = pd.Index(column.categories)
    codes = categories.get_indexer(values)  # -1 for what is missing, or no category
    unknown = np.flatnonzero((codes == -1) & ~pd.isna(values))
    if len(unknown) and not column.takes_unknown:
        row = unknown[0]
        value = values[row] if isinstance(values[row], str) else values[row].item()
        raise InvalidInput(
            f"row {row}, column {column.name!r} is {shortened(repr(value))}, a category that the "
            "estimator was not trained with",
            hint="send one of its categories, or a missing value if it has seen those",
        )
    return pd.Series(pd.Categorical.from_codes(codes, categories))
