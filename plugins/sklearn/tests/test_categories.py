"""Columns of pandas' type `category`, which XGBoost and LightGBM take themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlserve import plugins
from mlserve.errors import ExportError, InvalidInput
from mlserve.load_options import LoadOptions
from mlserve.sources import TensorModel
from mlserve.tensors import TensorSpec
from mlserve.testing.artifacts import exported

Opened = Callable[..., TensorModel]
pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

_N: dict[str, Any] = {"n_estimators": 8, "max_depth": 3, "random_state": 0}
MODELS: dict[str, Callable[[], Any]] = {
    "XGBoost": lambda: xgboost.XGBClassifier(**_N, enable_categorical=True),
    "dart": lambda: xgboost.XGBClassifier(**_N, enable_categorical=True, booster="dart"),
    "LightGBM": lambda: lightgbm.LGBMClassifier(**_N, min_child_samples=5, verbose=-1),
    "calibrated": lambda: CalibratedClassifierCV(
        lightgbm.LGBMClassifier(**_N, min_child_samples=5, verbose=-1), cv=2
    ),
}
model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def _rows(kind: str, city: str = "Köln") -> tuple[pd.DataFrame, Any]:
    """Homes whose rent depends on a category; no category is its own place, and one is missing."""
    random, n = np.random.default_rng(0), 300
    values: Any = {
        "text": [city, "Bern", "Genf", "Wien"],
        "numbers": [1, 2, 5, 3],
    }[kind]
    place = random.integers(4, size=n)
    rows = pd.DataFrame(
        {
            "größe": random.normal(60, 20, n),
            "place": pd.Series(np.array(values)[place]).astype("category"),
        }
    )
    rows.loc[::11, "place"] = None
    return rows, (rows["größe"] + np.array([0, 40, 5, 80])[place] > 90).astype(int)


def _asked(rows: pd.DataFrame, specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    if [spec.name for spec in specs] == ["x"]:
        return {"x": rows.astype(float).to_numpy()}
    texts = [b"" if pd.isna(place) else str(place).encode() for place in rows["place"]]
    return {"größe": rows["größe"].to_numpy(), "place": np.array(texts, dtype=object)}


@model
@pytest.mark.parametrize("kind", ["text", "numbers"])
def test_categories_give_the_answers_of_the_model(
    make: Any, kind: str, opened: Opened, tmp_path: Path
) -> None:
    rows, targets = _rows(kind, "Turin")
    fitted = make().fit(rows, targets)
    model = opened(fitted)
    runner = plugins.backend("sklearn").load(
        exported("sklearn", model, tmp_path / "m"), LoadOptions()
    )
    (signature,) = runner.signatures.values()
    answers = runner.run(signature.name, _asked(rows, signature.inputs))

    assert [spec.name for spec in signature.inputs] == (
        ["x"] if kind == "numbers" else ["größe", "place"]
    )
    np.testing.assert_array_equal(answers["probabilities"], fitted.predict_proba(rows))
    alone = runner.run(signature.name, _asked(rows[:1], signature.inputs))
    np.testing.assert_array_equal(alone["probabilities"], fitted.predict_proba(rows[:1]))


@model
@pytest.mark.parametrize("kind", ["text", "numbers"])
def test_as_onnx_they_give_the_same_answers_or_are_refused(
    make: Any, kind: str, opened: Opened, tmp_path: Path
) -> None:
    pytest.importorskip("mlserve_onnxruntime")
    rows, targets = _rows(kind, "Turin")
    fitted = make().fit(rows, targets)
    try:
        artifact = exported("onnxruntime", opened(fitted), tmp_path / "m")
    except ExportError:
        return
    runner = plugins.backend("onnxruntime").load(artifact, LoadOptions())
    (signature,) = runner.signatures.values()
    answers = runner.run(signature.name, _asked(rows, signature.inputs))
    np.testing.assert_allclose(answers["probabilities"], fitted.predict_proba(rows), atol=1e-4)


@pytest.mark.parametrize("name", ["XGBoost", "LightGBM"])
def test_numbers_of_categories_stay_numbers(name: str, opened: Opened) -> None:
    """Without a data frame, the numbers that were given are what the model takes."""
    rows, targets = _rows("numbers")
    codes = np.stack([rows["größe"], rows["place"].cat.codes.clip(0)], axis=1)
    if name == "XGBoost":
        fitted = xgboost.XGBClassifier(**_N, enable_categorical=True, feature_types=["q", "c"])
        fitted.fit(codes, targets)
    else:
        fitted = MODELS[name]().fit(codes, targets, categorical_feature=[1])
    answers = opened(fitted).content.runner.answers({"x": codes})
    np.testing.assert_array_equal(answers["probabilities"], fitted.predict_proba(codes))


def test_categories_of_lightgbm_need_not_be_ascii(opened: Opened) -> None:
    rows, targets = _rows("text")
    fitted = MODELS["LightGBM"]().fit(rows, targets)
    runner = opened(fitted).content.runner
    answers = runner.answers(_asked(rows, runner.inputs.specs))
    np.testing.assert_array_equal(answers["probabilities"], fitted.predict_proba(rows))


def test_those_of_xgboost_that_it_cuts_are_refused(opened: Opened) -> None:
    rows, targets = _rows("text")
    with pytest.raises(ExportError, match="cuts texts that are not ASCII") as refused:
        opened(MODELS["XGBoost"]().fit(rows, targets))
    assert "OrdinalEncoder" in str(refused.value.hint)


def test_categories_that_the_file_does_not_tell_are_refused(opened: Opened) -> None:
    """LightGBM keeps ordered categories like any others, but takes them for numbers."""
    rows, targets = _rows("text")
    rows["place"] = rows["place"].cat.as_ordered()
    fitted = MODELS["LightGBM"]().fit(rows, targets)
    with pytest.raises(ExportError, match="pandas' type category, and does not tell") as refused:
        opened(fitted)
    assert "OrdinalEncoder" in str(refused.value.hint)


def test_an_unknown_category_is_what_it_is_for_the_model(opened: Opened) -> None:
    """LightGBM takes it for a missing value; XGBoost would take it for another category."""
    rows, targets = _rows("text", "Turin")
    models = {name: MODELS[name]().fit(rows, targets) for name in ("LightGBM", "XGBoost")}
    inputs = {
        "größe": np.array([70.0, 70.0]),
        "place": np.array([b"Bern", b"Rom"], dtype=object),
    }
    unknown = pd.DataFrame({"größe": [70.0, 70.0], "place": pd.Categorical(["Bern", "Rom"])})
    answers = opened(models["LightGBM"]).content.runner.answers(inputs)
    np.testing.assert_array_equal(
        answers["probabilities"], models["LightGBM"].predict_proba(unknown)
    )
    with pytest.raises(InvalidInput) as refused:
        opened(models["XGBoost"]).content.runner.answers(inputs)
    assert refused.value.message == (
        "row 1, column 'place' is 'Rom', a category that the estimator was not trained with"
    )
    rows, targets = _rows("numbers")
    numbers = opened(MODELS["XGBoost"]().fit(rows, targets)).content.runner
    with pytest.raises(InvalidInput, match=r"row 0, column 'place' is 4\.0, a category that"):
        numbers.answers({"x": np.array([[70.0, 4.0], [70.0, np.nan]])})


def test_an_example_names_categories_that_the_model_knows(opened: Opened) -> None:
    rows, targets = _rows("text", "Turin")
    model = opened(MODELS["XGBoost"]().fit(rows, targets))
    assert model.details["texts"] == {"place": "Bern"}


def test_it_is_told_that_lightgbm_changed_names(opened: Opened) -> None:
    """The user's own names are lost: it keeps `_` for each space. In a pipeline they are kept."""
    rows, targets = _rows("numbers")
    rows = rows.astype(float).fillna(0.0).set_axis(["living area", "place"], axis=1)
    changed = opened(MODELS["LightGBM"]().fit(rows, targets))
    assert changed.columns["x"] == ("living_area", "place")
    assert "LightGBM keeps each space" in changed.facts["names"].why
    assert "living_area" in changed.facts["names"].why
    own = opened(make_pipeline(StandardScaler(), MODELS["LightGBM"]()).fit(rows, targets))
    assert own.columns["x"] == ("living area", "place")
    assert "names" not in own.facts
    plain = opened(MODELS["LightGBM"]().fit(rows.to_numpy(), targets))
    assert "names" not in plain.facts
