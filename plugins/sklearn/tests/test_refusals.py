"""Numbers that an estimator refuses are refused by its conversion too, which would answer them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlserve import plugins
from mlserve.errors import InvalidInput
from mlserve.load_options import LoadOptions
from mlserve.sources import TensorModel
from mlserve.testing.artifacts import exported

pytestmark = pytest.mark.framework

Opened = Callable[..., TensorModel]
ROWS = np.random.default_rng(0).normal(size=(60, 3))
TARGETS = (ROWS[:, 0] > 0).astype(int)
ESTIMATORS = {
    "logistic": LogisticRegression(),
    "boosting": GradientBoostingClassifier(n_estimators=3),
    "forest": RandomForestClassifier(3, random_state=0),
    "imputed": make_pipeline(SimpleImputer(), LogisticRegression()),
}


def _runners(model: TensorModel, folder: Path) -> list[Any]:
    return [
        plugins.backend(name).load(exported(name, model, folder / name), LoadOptions(threads=1))
        for name in ("sklearn", "onnxruntime")
    ]


def _answer(runner: Any, inputs: Any) -> Any:
    """Return the label, or the words of the refusal before those of the estimator."""
    try:
        return runner.run("serving_default", inputs)["label"].tolist()
    except InvalidInput as error:
        return error.message.rpartition("row ")[2].partition(":")[0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_the_estimator_refuses_its_conversion_refuses(
    name: str, opened: Opened, tmp_path: Path
) -> None:
    model = opened(ESTIMATORS[name].fit(ROWS, TARGETS))
    itself, converted = _runners(model, tmp_path)
    for number in (np.nan, np.inf, -np.inf):
        rows = ROWS[:4].copy()
        rows[2, 1] = number
        expected = _answer(itself, {"x": rows})
        assert _answer(converted, {"x": rows}) == expected
        assert _answer(converted, {"x": ROWS[:4]}) == TARGETS[:4].tolist()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_what_float32_cannot_hold_is_refused_as_by_the_trees(
    opened: Opened, tmp_path: Path
) -> None:
    model = opened(ESTIMATORS["forest"].fit(ROWS, TARGETS))
    itself, converted = _runners(model, tmp_path)
    rows = np.array([[0.0, 1.0, 2.0], [0.0, -1e39, 2.0]])
    for runner in (itself, converted):
        with pytest.raises(InvalidInput):
            runner.run("serving_default", {"x": rows})
    with pytest.raises(InvalidInput, match="row 1, column 'x1' is -1e\\+39"):
        converted.run("serving_default", {"x": rows})


def test_each_column_has_its_own_refusals(opened: Opened, tmp_path: Path) -> None:
    """Only the column `age` is imputed; its neighbour is refused by its name."""
    frame = pd.DataFrame(ROWS, columns=["age", "size", "rooms"])
    columns = ColumnTransformer([("age", SimpleImputer(), ["age"])], remainder="passthrough")
    model = opened(make_pipeline(columns, LogisticRegression()).fit(frame, TARGETS))
    itself, converted = _runners(model, tmp_path)
    for column in range(3):
        rows = ROWS[:2].copy()
        rows[1, column] = np.nan
        assert _answer(converted, {"x": rows}) == _answer(itself, {"x": rows})
    with pytest.raises(InvalidInput, match="row 1, column 'rooms' is nan"):
        converted.run("serving_default", {"x": rows})
