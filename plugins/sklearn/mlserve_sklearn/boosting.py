"""What the models of XGBoost and LightGBM tell of their columns: thresholds, and categories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from mlserve.errors import ExportError
from mlserve_sklearn.parts import parts_of

Array = np.ndarray[Any, Any]
_XGBOOST, _LIGHTGBM = "xgboost", "lightgbm"
_CATEGORY = "c"
"""XGBoost's type of a column of categories."""
_MADE_UP = re.compile(r"Column_\d+")
_INFOS = "feature_infos="
"""Begins the line of LightGBM's model that tells what each column held: `[0.1:2.5]`, or `0:1:2`."""


def boosted_thresholds(part: Any) -> Iterator[tuple[Array, Array]]:
    """Yield the columns and the thresholds of the trees; nothing for any other object."""
    library = _library_of(part)
    if library == _XGBOOST:
        frame, names = part.get_booster().trees_to_dataframe(), part.get_booster().feature_names
        column, threshold = "Feature", "Split"
    elif library == _LIGHTGBM:
        frame, names = part.booster_.trees_to_dataframe(), part.booster_.feature_name()
        column, threshold = "split_feature", "threshold"
    else:
        return
    names = names or [f"f{i}" for i in range(part.n_features_in_)]
    splits = frame.dropna(subset=[column, threshold])
    splits = splits[splits[column].isin(names)]
    numbers = np.array([_number(value) for value in splits[threshold]])
    if len(splits):
        yield np.array([names.index(name) for name in splits[column]]), numbers


def names_of_lightgbm(estimator: object) -> list[str]:
    """Return the names of columns that a LightGBM inside kept: it writes each space as `_`.

    Nothing if it was fitted on an array, of which it makes up names.
    """
    parts = (part for part, _ in parts_of(estimator))
    kept = (getattr(part, "feature_name_", ()) for part in parts if _library_of(part) == _LIGHTGBM)
    names = dict.fromkeys(name for of_part in kept for name in of_part)
    return [name for name in names if not _MADE_UP.fullmatch(name)]


def takes_unknown(part: Any) -> bool:
    """Return whether a category that was not seen in training is a missing value, as in LightGBM.

    XGBoost 3.2 refuses it if it comes after all others by name, and else takes it for the next one.
    """
    return _library_of(part) != _XGBOOST


def categories_of(part: Any) -> Mapping[int, tuple[Any, ...]]:
    """Return the categories of each column that was one of pandas' type `category`, by its index.

    Such a column must come as the same type again: both refuse any other. Raises ExportError if the
    model does not tell the categories.
    """
    library = _library_of(part)
    if library == _XGBOOST:
        return _of_xgboost(part)
    return _of_lightgbm(part.booster_) if library == _LIGHTGBM else {}


def _of_xgboost(part: Any) -> Mapping[int, tuple[Any, ...]]:
    booster = part.get_booster()
    columns = [i for i, kind in enumerate(booster.feature_types or ()) if kind == _CATEGORY]
    if not columns or part.feature_types is not None:
        return {}  # whoever gives the types gives numbers of categories
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    model = trees.get("gbtree", trees)["model"]  # with dart, the trees are one level deeper
    kept = model.get("cats", {}).get("enc", [])
    found = {i: _values(kept[i]) for i in columns if i < len(kept)}
    if all(found.get(i) for i in columns):
        return found
    if booster.feature_names is None:
        return {}
    raise _unknown("XGBoost keeps them since version 3.1: train the model with it")


def _values(column: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the categories of a column as XGBoost writes them: text is all in one array."""
    if "offsets" not in column:
        return tuple(column["values"])
    text, ends = bytes(value % 256 for value in column["values"]), column["offsets"]
    if not text.isascii():  # it counts characters, and cuts the text after as many bytes
        raise _unknown("XGBoost 3.2 cuts texts that are not ASCII, and takes one for another")
    return tuple(text[start:end].decode() for start, end in pairwise(ends))


def _of_lightgbm(booster: Any) -> Mapping[int, tuple[Any, ...]]:
    kept = booster.pandas_categorical or []
    if not kept:
        return {}
    lines = booster.model_to_string(num_iteration=1).splitlines()
    infos = next(line for line in lines if line.startswith(_INFOS)).removeprefix(_INFOS).split(" ")
    columns = [i for i, info in enumerate(infos) if not info.startswith("[")]
    if len(columns) != len(kept):
        raise _unknown("LightGBM keeps them, but not which column each belongs to, if one is")
    return {i: tuple(values) for i, values in zip(columns, kept, strict=True)}


def _unknown(why: str) -> ExportError:
    return ExportError(
        f"the model was fitted on columns of pandas' type category, and does not tell them: {why}",
        hint="put an encoder for these columns in front of it, as one pipeline, such as a "
        "ColumnTransformer with an OrdinalEncoder",
    )


def _library_of(part: Any) -> str:
    return type(part).__module__.partition(".")[0]


def _number(value: Any) -> float:
    """Return a threshold; NaN for a set of categories, which LightGBM writes as `0||2`."""
    try:
        return float(value)
    except ValueError:
        return float("nan")
