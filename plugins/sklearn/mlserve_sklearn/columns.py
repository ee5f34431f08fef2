"""What the steps of a fitted estimator tell of the columns that it takes.

A file says how many columns there are, and their names if a data frame was fitted. Their types come
from the transformers that were fitted on them: an encoder lists the values of its column, an
imputer what it fills in, and most other steps take numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import get_tags

from mlserve.sources import How
from mlserve.tensors import DType
from mlserve_sklearn.boosting import categories_of, takes_unknown

Array = np.ndarray[Any, Any]
_MOST_SEEN = 1000
_FIRST_INEXACT = 2**53
"""The smallest integer that a float64 cannot tell from its neighbour."""
INNER = ("best_estimator_", "estimator_", "regressor_", "estimators_", "calibrated_classifiers_")
_KINDS = {"i": DType.INT64, "u": DType.INT64, "b": DType.BOOL, "f": DType.FLOAT64}


@dataclass(frozen=True, slots=True)
class Column:
    """One column, the `index`-th of those that the estimator was fitted on.

    `missing` is what the estimator knows as a missing string: None or NaN. It is "" where the
    estimator knows none, and an empty string is then a string like any other. `seen` are values
    that a fitted encoder lists (`is_category`) or an imputer fills in. `categories` are those of
    pandas' type `category`, where the estimator takes a column of it; any other value is a missing
    one if it `takes_unknown`. `has_large` integers are some that a float64 cannot tell apart.
    """

    name: str
    index: int = 0
    dtype: DType = DType.FLOAT64
    how: How = How.ASSUMED
    missing: Any = ""
    seen: tuple[Any, ...] = ()
    is_category: bool = False
    categories: tuple[Any, ...] = ()
    takes_unknown: bool = True
    has_large: bool = False


def fitted_columns(estimator: Any) -> dict[int, Column]:
    """Return the columns that the estimator's steps tell the type of, by index, without names."""
    return dict(_merged(_evidence(estimator, None)))


def takes_text(estimator: Any) -> bool:
    """Return whether the estimator takes a list of texts instead of rows."""
    return _is_vectorizer(_first_step(estimator))


def _is_vectorizer(part: Any) -> bool:
    is_counted = hasattr(part, "vocabulary_") and hasattr(part, "build_analyzer")
    return is_counted or isinstance(part, HashingVectorizer)


def dropped_columns(part: Any) -> set[int]:
    """Return the columns that an estimator's first step leaves out."""
    part = _first_step(part)
    if not isinstance(part, ColumnTransformer):
        return set()
    steps = {name: inner for name, inner, _ in part.transformers_}
    kept = [i for name, inner in steps.items() if inner != "drop" for i in indices_of(part, name)]
    return set(range(part.n_features_in_)) - set(kept)


def _first_step(part: Any) -> Any:
    while isinstance(part, Pipeline) or hasattr(part, "best_estimator_"):
        if isinstance(part, Pipeline):
            part = next((step for _, step in part.steps if not _is_no_step(step)), None)
        else:
            part = part.best_estimator_
    return part


class _Seen(Enum):
    """What the values are that were seen in a column."""

    VALUES = auto()
    CATEGORIES = auto()
    PANDAS_CATEGORIES = auto()
    ALL_PANDAS_CATEGORIES = auto()


_PANDAS = {_Seen.PANDAS_CATEGORIES, _Seen.ALL_PANDAS_CATEGORIES}
_Evidence = tuple[int, Any, _Seen]
"""A column, values that were seen in it, and what they are."""


def _evidence(part: Any, columns: Sequence[int] | None) -> Iterator[_Evidence]:
    """Yield what each transformer that was fitted on columns of the rows tells of them.

    `columns` None stands for all, in order.
    """
    if columns is None:
        columns = range(getattr(part, "n_features_in_", 0))
    if isinstance(part, Pipeline):
        for _, step in part.steps:
            yield from _evidence(step, columns)
            if not (isinstance(step, SimpleImputer) or _is_no_step(step)):
                return  # what follows is fitted on other columns
    elif isinstance(part, FeatureUnion | ColumnTransformer):
        for inner, indices in _branches(part):
            own = columns if indices is None else [columns[i] for i in indices]
            yield from _evidence(inner, own)
    elif getattr(part, "_preprocessor", None) is not None:  # HistGradientBoosting with categories
        yield from _evidence(part._preprocessor, columns)  # noqa: SLF001 - nothing public has it
    elif not _is_no_step(part):
        yield from _evidence_of_step(part, columns)


def _branches(part: Any) -> Iterator[tuple[Any, list[int] | None]]:
    if isinstance(part, FeatureUnion):
        yield from ((inner, None) for _, inner in part.transformer_list)
    else:
        yield from ((inner, indices_of(part, name)) for name, inner, _ in part.transformers_)


def indices_of(part: ColumnTransformer, name: str) -> list[int]:
    """Return the columns that one of its transformers was fitted on."""
    return list(part._transformer_to_input_indices[name])  # noqa: SLF001 - nothing public says it


def _is_no_step(part: Any) -> bool:
    return part is None or isinstance(part, str)


def _evidence_of_step(part: Any, columns: Sequence[int]) -> Iterator[_Evidence]:
    inner = _same_columns_inside(part)
    tags = get_tags(part)
    if hasattr(part, "categories_"):
        for i, values in zip(columns, part.categories_, strict=False):
            yield i, values, _Seen.CATEGORIES
    elif isinstance(part, SimpleImputer):
        filled = part.statistics_.astype(part._fit_dtype)  # noqa: SLF001 - nothing public says it
        missing = part.missing_values if filled.dtype == object else np.nan
        for i, value in zip(columns, filled, strict=False):
            yield i, np.array([value, missing], dtype=filled.dtype), _Seen.VALUES
    elif _is_vectorizer(part):
        yield columns[0] if columns else 0, _texts_for(part), _Seen.VALUES
    elif inner is not None:
        yield from _evidence(inner, columns)
    elif kept := categories_of(part):
        yield from _categories(columns, kept, can_be_others=takes_unknown(part))
    elif not (tags.no_validation or tags.input_tags.categorical or tags.input_tags.string):
        yield from ((i, np.empty(0), _Seen.VALUES) for i in columns)


def _categories(
    columns: Sequence[int], kept: Mapping[int, Sequence[Any]], *, can_be_others: bool
) -> Iterator[_Evidence]:
    kind = _Seen.PANDAS_CATEGORIES if can_be_others else _Seen.ALL_PANDAS_CATEGORIES
    for i, column in enumerate(columns):
        if i in kept:
            yield column, _with_missing(kept[i]), kind
        else:
            yield column, np.empty(0), _Seen.VALUES


def _with_missing(categories: Sequence[Any]) -> Array:
    """Return the categories as an array: with NaN among texts, which is pandas' missing text."""
    if not any(isinstance(value, str) for value in categories):
        return np.array(categories)
    return np.array([*categories, np.nan], dtype=object)


def _texts_for(vectorizer: Any) -> Array:
    """Return texts of words that it knows, and of some that it need not know."""
    words = [*getattr(vectorizer, "vocabulary_", {}), "Some", "words,", "Été", "42"][:_MOST_SEEN]
    texts = [" ".join(words[i :: 1 + len(words) // 7]) for i in range(len(words))]
    return np.array(texts, dtype=object)


def _same_columns_inside(part: Any) -> Any:
    """Return the estimator inside this one that was fitted on the same columns; None if none."""
    inner = next((getattr(part, name) for name in INNER if hasattr(part, name)), None)
    if isinstance(inner, list | np.ndarray) and len(inner):
        inner = np.ravel(np.asarray(inner, dtype=object))[0]
        inner = getattr(inner, "estimator", inner)
    width = getattr(part, "n_features_in_", None)
    return inner if width is not None and getattr(inner, "n_features_in_", -1) == width else None


def _merged(evidence: Iterable[_Evidence]) -> Iterator[tuple[int, Column]]:
    """Yield what all the evidence of a column says together; nothing if it says no type."""
    by_column: dict[int, list[_Evidence]] = {}
    for told in evidence:
        by_column.setdefault(told[0], []).append(told)
    for i, all_told in by_column.items():
        types = {_type_of(values) for _, values, _ in all_told} - {None}
        kinds = {kind for _, _, kind in all_told}
        values = [value for _, array, _ in all_told for value in array.tolist()]
        absent = _absent(all_told)
        seen = tuple(dict.fromkeys(value for value in values if not pd.isna(value)))
        if types:
            yield (
                i,
                Column(
                    "",
                    dtype=_common(types),
                    how=How.FOUND,
                    missing=absent[0] if absent and DType.BYTES in types and "" not in seen else "",
                    seen=seen[:_MOST_SEEN],
                    is_category=kinds != {_Seen.VALUES},
                    categories=seen if kinds & _PANDAS else (),
                    takes_unknown=_Seen.ALL_PANDAS_CATEGORIES not in kinds,
                    has_large=any(isinstance(v, int) and abs(v) >= _FIRST_INEXACT for v in seen),
                ),
            )


def _absent(evidence: Iterable[_Evidence]) -> list[Any]:
    """Return what stands for a missing value: first what was seen, then what would be filled in.

    A column can have both: an imputer of NaN leaves a None as it is, which becomes a category.
    """
    told = sorted(evidence, key=lambda each: each[2] is _Seen.VALUES)
    return [value for _, array, _ in told for value in array.tolist() if pd.isna(value)]


def _common(types: Set[DType | None]) -> DType:
    if DType.BYTES in types:
        return DType.BYTES
    (first, *others) = types
    return DType.FLOAT64 if others or first is None else first


def _type_of(values: Array) -> DType | None:
    if values.dtype.kind in _KINDS:
        return _KINDS[values.dtype.kind]
    real = [value for value in values.tolist() if not pd.isna(value)]
    if real and all(isinstance(value, str) for value in real):
        return DType.BYTES
    found = np.array(real)
    return _KINDS.get(found.dtype.kind) if real else None
