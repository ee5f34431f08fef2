"""`mlserve compare sklearn onnxruntime rows.csv`: a fault seeded into one of the two."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
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


def test_another_imputer_differs_in_the_rows_without_a_value(tmp_path: Path) -> None:
    pytest.importorskip("mlserve_onnxruntime")
    pytest.importorskip("skl2onnx")
    homes = _homes(300)
    forest = _forest(homes)
    other = _with_another_imputer(forest, homes)
    table, store = tmp_path / "homes.csv", tmp_path / "store"
    homes.to_csv(table, index=False)
    for backend, model in (("sklearn", forest), ("onnxruntime", other)):
        skops.io.dump(model, tmp_path / "homes.skops")
        export(ModelRequest("homes", str(tmp_path / "homes.skops")), backend, store=store)
    targets = ["sklearn", "onnxruntime"]
    command = ["compare", *targets, str(table), "--store", str(store), "--runs", "1"]

    done = subprocess.run(
        [sys.executable, "-m", "mlserve", *command, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MLSERVE_HOME": str(tmp_path / "home")},
    )

    assert done.returncode == 8, done.stderr
    found = json.loads(done.stdout)
    apart = np.abs(forest.predict_proba(homes) - other.predict_proba(homes)).max(axis=1) > 1e-4
    assert apart.sum() > 10
    assert homes["size"].isna()[apart].all(), "the fault shows where a size is missing"
    assert {item["row"] for item in found["problems"]} == set((np.flatnonzero(apart) + 1).tolist())
    assert found["targets"][1]["outputs"]["label"]["rows_that_differ"] == np.count_nonzero(
        forest.predict(homes) != other.predict(homes)
    )
