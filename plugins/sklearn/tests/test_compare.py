"""`mlserve compare sklearn onnxruntime rows.csv`: a fault seeded into one of the two."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlserve.export import export
from mlserve.sources import ModelRequest

pytestmark = [pytest.mark.framework, pytest.mark.server]


def _homes(count: int) -> pd.DataFrame:
    """Homes with and without their size, which is skewed: its mean is not its median."""
    random = np.random.default_rng(3)
    size = 20 + random.exponential(60, count)
    return pd.DataFrame(
        {
            "city": random.choice(["Bern", "Köln", "Wien"], count),
            "size": np.where(random.random(count) < 0.1, np.nan, size.round(1)),
        }
    )


def _forest(homes: pd.DataFrame) -> Pipeline:
    columns = ColumnTransformer(
        [("city", OneHotEncoder(), ["city"]), ("size", SimpleImputer(), ["size"])]
    )
    forest = make_pipeline(columns, RandomForestClassifier(5, random_state=0))
    sizes = homes["size"].fillna(70)
    return forest.fit(homes, np.where(sizes + 20 * (homes.city == "Bern") > 75, "yes", "no"))


def _with_another_imputer(forest: Pipeline, homes: pd.DataFrame) -> Pipeline:
    """Return the forest with the median, not the mean, in place of a missing size."""
    other = copy.deepcopy(forest)
    other[0].named_transformers_["size"].statistics_[:] = homes["size"].median()
    return other


def _compared(table: Path, store: Path) -> dict[str, Any]:
    """Return the report of the command, which must find a difference."""
    command = ["compare", "sklearn", "onnxruntime", str(table), "--store", str(store)]
    done = subprocess.run(
        [sys.executable, "-m", "mlserve", *command, "--runs", "1", "--output", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MLSERVE_HOME": str(store.parent / "home")},
    )
    assert done.returncode == 8, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _exported(model: Any, backend: str, store: Path) -> None:
    file = store.parent / "homes.skops"
    skops.io.dump(model, file)
    export(ModelRequest("homes", str(file)), backend, store=store)


def _rows_in(found: dict[str, Any]) -> set[int]:
    return {item["row"] for item in found["problems"]}


def test_another_imputer_differs_in_the_rows_without_a_value(tmp_path: Path) -> None:
    pytest.importorskip("mlserve_onnxruntime")
    pytest.importorskip("skl2onnx")
    homes = _homes(300)
    forest = _forest(homes)
    other = _with_another_imputer(forest, homes)
    table, store = tmp_path / "homes.csv", tmp_path / "store"
    homes.to_csv(table, index=False)
    _exported(forest, "sklearn", store)
    _exported(other, "onnxruntime", store)

    found = _compared(table, store)

    apart = np.abs(forest.predict_proba(homes) - other.predict_proba(homes)).max(axis=1) > 1e-4
    assert apart.sum() > 10
    assert homes["size"].isna()[apart].all(), "the fault shows where a size is missing"
    assert _rows_in(found) == set((np.flatnonzero(apart) + 1).tolist())
    assert found["targets"][1]["outputs"]["label"]["rows_that_differ"] == np.count_nonzero(
        forest.predict(homes) != other.predict(homes)
    )


def test_float32_differs_in_the_rows_at_a_threshold_that_it_rounds_across(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value and its threshold become float32: the value to the nearest, the threshold downwards.

    So a threshold that is rounded up goes to the other branch itself; where it is rounded down, the
    next float64 above it does. No other value is between the two thresholds.
    """
    exporter = pytest.importorskip("mlserve_onnxruntime.sklearn_exporter")
    sizes = np.random.default_rng(5).exponential(60, (300, 1))
    trees = HistGradientBoostingRegressor(max_iter=2, learning_rate=1.0)
    trees.fit(pd.DataFrame(sizes, columns=["size"]), np.sqrt(sizes[:, 0]))
    nodes = np.concatenate([tree.nodes for (tree,) in trees._predictors])
    thresholds = np.unique(nodes["num_threshold"][nodes["is_leaf"] == 0])
    above = np.nextafter(thresholds, np.inf)
    between = (thresholds[1:] + thresholds[:-1]) / 2
    rows = pd.DataFrame({"size": np.concatenate([thresholds, above, between])})
    table, store = tmp_path / "homes.csv", tmp_path / "store"
    rows.to_csv(table, index=False)
    _exported(trees, "sklearn", store)
    monkeypatch.setattr(exporter, "Variant", [exporter.Variant.FLOAT])
    monkeypatch.setattr(exporter, "_difference", lambda *_: None)  # which would refuse it
    _exported(trees, "onnxruntime", store)

    found = _compared(table, store)

    is_up = thresholds.astype(np.float32) > thresholds
    assert 0 < is_up.sum() < len(is_up)
    at, just_above = np.arange(len(is_up)) + 1, np.arange(len(is_up)) + 1 + len(is_up)
    assert _rows_in(found) == set(np.where(is_up, at, just_above).tolist())
