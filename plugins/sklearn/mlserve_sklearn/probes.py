"""Rows to try an estimator with: where its answers change, and around what it was fitted on.

A copy of the estimator (in another file, for another runtime) must answer them as the estimator
does. So they hold what it compares with: the thresholds of its trees with their float32 neighbours,
the categories of its encoders; rows around the means, centres and rows that it has kept; missing
and unknown values; and numbers of every size, for an estimator that keeps no row, such as a linear
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline

from mlserve.tensors import DType
from mlserve_sklearn.boosting import boosted_thresholds
from mlserve_sklearn.columns import INNER, Array, Column, indices_of
from mlserve_sklearn.inputs import Inputs

_ROWS = 300
_FEW = 8
_MOST = 400
"""The most thresholds of one estimator, and the most rows that it has kept."""
_MOST_INSIDE = 16
"""The most estimators inside an estimator that are looked into, if they are not trees."""
_MOST_POINTS = 1500
_MOST_GAPS = 50
"""The most columns that get a missing value."""
_MOST_NUMBERS = 2**23
"""The most numbers at once, which is what limits rows of thousands of columns."""
_SEED = 7
_KEPT = ("cluster_centers_", "theta_", "means_", "_fit_X", "support_vectors_", "X_train_")
"""Attributes that hold rows, or rows of means, in the columns that the estimator takes."""
_UNKNOWN = b"no such value"
_NO_INVERSE = (AttributeError, ValueError, TypeError, IndexError)
"""What `inverse_transform` raises for points that are not of its step; an encoder looks them up."""


def probe_rows(estimator: Any, inputs: Inputs, *, is_short: bool = False) -> dict[str, Array]:
    """Return inputs of some hundred rows, by name; of a few if `is_short`.

    An estimator need not take all of them. Zeros and values that were seen come first, missing and
    unknown values last.
    """
    random = np.random.default_rng(_SEED)
    width = getattr(estimator, "n_features_in_", len(inputs.columns))
    if is_short:
        numbers = random.normal(size=(_FEW, width))
        numbers[:2] = [[0], [1]]
    else:
        numbers = _numbers(estimator, width, random)
    gaps = 0 if is_short else min(len(inputs.columns), _MOST_GAPS)
    numbers = np.concatenate([numbers, numbers[:1].repeat(2 * gaps, axis=0)])
    values = {}
    for i, column in enumerate(inputs.columns):
        values[column.name] = array = _values(column, numbers[:, column.index], random)
        unusual = len(numbers) - 2 * gaps + 2 * i
        if i >= gaps:
            continue
        if column.dtype is DType.BYTES:
            array[unusual], array[unusual + 1] = b"", _UNKNOWN
        elif column.is_category:
            array[unusual] = max(column.seen, default=0) + 1
        elif array.dtype.kind == "f":
            array[unusual] = np.nan
    return {name: _as(inputs, name, array) for name, array in inputs.joined(values).items()}


def _as(inputs: Inputs, name: str, array: Array) -> Array:
    dtype = next(spec.dtype for spec in inputs.specs if spec.name == name)
    return array if dtype is DType.BYTES else array.astype(dtype.label)


def _values(column: Column, numbers: Array, random: np.random.Generator) -> Array:
    """Return values of one column for all rows: those that were seen, or else the numbers."""
    seen = column.seen or ((b"a",) if column.dtype is DType.BYTES else ())
    if column.dtype is DType.BYTES:
        values = np.empty(len(numbers), dtype=object)
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in seen]
        values[:] = [texts[i] for i in random.integers(len(texts), size=len(values))]
        return values
    if column.is_category:
        return np.array(seen)[random.integers(len(seen), size=len(numbers))]
    return numbers if column.dtype is DType.FLOAT64 else np.round(numbers)


def _numbers(estimator: Any, width: int, random: np.random.Generator) -> Array:
    """Return float64[rows, width]; the first row is of zeros, the second of ones."""
    with np.errstate(invalid="ignore"):  # what a step gives back for points that are not its own
        points = np.concatenate([np.empty((0, width)), *_points(estimator, width, random)])
    most = min(_MOST_POINTS, max(_ROWS, _MOST_NUMBERS // width))
    points = points[random.permutation(len(points))[:most]]
    kept = points[~np.isnan(points).any(axis=1)]
    centre, spread = np.zeros(width), np.ones(width)
    for i in range(width):
        known = points[~np.isnan(points[:, i]), i]
        if len(known):
            centre[i], spread[i] = known.mean(), known.std() or 1.0
    near = centre + 1.5 * spread * random.normal(size=(_ROWS, width))
    if len(kept):
        near[::2] = kept[random.integers(len(kept), size=len(near[::2]))]
        near[::4] += spread * random.normal(size=near[::4].shape)
    sizes = 10.0 ** random.integers(-2, 4, (_ROWS // 3, 1))
    any_size = random.normal(size=(_ROWS // 3, width)) * sizes
    around = near[random.integers(len(near), size=len(points))]
    crossed = np.where(np.isnan(points), around, points)
    return np.concatenate([np.zeros((1, width)), np.ones((1, width)), near, crossed, any_size])


def _points(part: Any, width: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield float64[rows, width] of what a part keeps; NaN stands for any value."""
    if isinstance(part, Pipeline):
        yield from _points_of_steps([step for _, step in part.steps], width, random)
    elif isinstance(part, ColumnTransformer):
        for name, inner, _ in part.transformers_:
            indices = indices_of(part, name)
            for points in _points(inner, len(indices), random):
                yield _spread_out(points, indices, width)
    elif hasattr(part, "data_min_"):  # MinMaxScaler
        yield np.stack([part.data_min_, part.data_max_])
    elif getattr(part, "mean_", None) is not None and getattr(part, "scale_", None) is not None:
        yield part.mean_ + np.array([[-2], [-1], [0], [1], [2]]) * part.scale_
    elif isinstance(part, SimpleImputer):
        if part.statistics_.dtype.kind == "f":
            yield part.statistics_[None]
    else:
        yield from _points_inside(part, width, random)


def _points_inside(part: Any, width: int, random: np.random.Generator) -> Iterator[Array]:
    thresholds = list(_thresholds(part))
    if thresholds:
        columns, values = (np.concatenate(each) for each in zip(*thresholds, strict=True))
        pairs = np.unique(np.stack([columns, values], axis=1), axis=0)
        most = min(_MOST, max(4, _MOST_NUMBERS // (4 * _MOST_INSIDE * width)))
        pairs = pairs[random.permutation(len(pairs))[:most]]
        yield _on_thresholds(pairs[(pairs[:, 0] < width) & np.isfinite(pairs[:, 1])], width)
    for name in _KEPT:
        kept = getattr(part, name, None)
        if isinstance(kept, np.ndarray) and kept.shape[1:] == (width,):
            yield kept[random.permutation(len(kept))[:_MOST]].astype(np.float64)
    for inner, subset in _inside(part, width):
        if getattr(inner, "n_features_in_", -1) == len(subset):
            for points in _points(inner, len(subset), random):
                yield _spread_out(points, subset, width)


def _inside(part: Any, width: int) -> Iterator[tuple[Any, Sequence[int]]]:
    """Yield the fitted estimators in an estimator, with the columns that each takes."""
    if hasattr(part, "estimators_features_"):
        pairs = zip(part.estimators_, part.estimators_features_, strict=True)
        yield from islice(pairs, _MOST_INSIDE)
        return
    for name in INNER:
        inside = np.ravel(np.asarray(getattr(part, name, []), dtype=object))
        others = [inner for inner in inside if not hasattr(inner, "tree_")]
        yield from (
            (getattr(each, "estimator", each), range(width)) for each in others[:_MOST_INSIDE]
        )


def _on_thresholds(pairs: Array, width: int) -> Array:
    """Return rows with one value each: a threshold, and the float32 numbers on both its sides."""
    rows = np.full((4 * len(pairs), width), np.nan)
    values = pairs[:, 1]
    singles = values.astype(np.float32)
    sides = [np.nextafter(singles, np.float32(side)) for side in (-np.inf, np.inf)]
    for i, each in enumerate((values, singles, *sides)):
        rows[i * len(pairs) + np.arange(len(pairs)), pairs[:, 0].astype(int)] = each
    return rows


def _thresholds(part: Any) -> Iterator[tuple[Array, Array]]:
    """Yield the columns and thresholds of the trees of scikit-learn, XGBoost or LightGBM."""
    if hasattr(part, "tree_"):
        inner = part.tree_.children_left != -1
        yield part.tree_.feature[inner], part.tree_.threshold[inner]
    elif hasattr(part, "estimators_") and not hasattr(part, "estimators_features_"):
        for each in np.ravel(np.asarray(part.estimators_, dtype=object)):
            if hasattr(each, "tree_"):
                yield from _thresholds(each)
    elif hasattr(part, "_predictors") and getattr(part, "_preprocessor", None) is None:
        for predictor in np.ravel(part._predictors):  # noqa: SLF001 - nothing public has them
            inner = predictor.nodes["is_leaf"] == 0
            yield predictor.nodes["feature_idx"][inner], predictor.nodes["num_threshold"][inner]
    elif hasattr(part, "bin_edges_"):
        for i, edges in enumerate(part.bin_edges_):
            yield np.full(len(edges), i), edges
    else:
        yield from boosted_thresholds(part)


def _points_of_steps(steps: list[Any], width: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield the points of each step of a pipeline, back in the columns that the pipeline takes."""
    steps = [step for step in steps if step is not None and not isinstance(step, str)]
    for i, step in enumerate(steps):
        inside = getattr(step, "n_features_in_", width)
        for points in _points(step, inside, random):
            back = points
            try:
                for before in reversed(steps[:i]):
                    back = _inverse(before, back)
            except _NO_INVERSE:
                continue  # this step does not tell what it was given
            if back.shape[1] == width:
                yield back


def _inverse(part: Any, points: Array) -> Array:
    """Return what a transformer made the points of. Raises what transformers raise."""
    if isinstance(part, SimpleImputer):
        return points
    if isinstance(part, Pipeline):
        for _, step in reversed(part.steps):
            points = _inverse(step, points)
        return points
    if not isinstance(part, ColumnTransformer):
        return np.asarray(part.inverse_transform(points), dtype=np.float64)
    back = np.full((len(points), part.n_features_in_), np.nan)
    for name, inner, _ in part.transformers_:
        indices = indices_of(part, name)
        try:
            back[:, indices] = _inverse(inner, points[:, part.output_indices_[name]])
        except _NO_INVERSE:
            continue  # such as of an encoder, whose categories are known otherwise
    return back


def _spread_out(points: Array, indices: Sequence[int], width: int) -> Array:
    rows = np.full((len(points), width), np.nan)
    rows[:, list(indices)] = points
    return rows
