"""Train a model of scikit-learn on a table of numbers and text, and save it for mlserve.

    python examples/train_sklearn.py build/homes.skops
    mlserve export --model homes --weights build/homes.skops
    mlserve up --model homes --backend sklearn
    mlserve predict --input city=Bern --input rooms=3 --input size=71.5
    mlserve down

The same file for ONNX Runtime: `mlserve export --backend onnxruntime`, `mlserve up --backend
onnxruntime`. Both take the same request and give the same answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder


def homes(count: int) -> pd.DataFrame:
    """Return made-up homes with their rents; some cities and sizes are missing."""
    random = np.random.default_rng(1)
    rooms = random.integers(1, 6, count)
    table = pd.DataFrame(
        {
            "city": random.choice(["Bern", "Basel", "Zürich"], count),
            "rooms": rooms,
            "size": rooms * 22 + random.normal(8, 5, count),
        }
    )
    dear = table.city.map({"Bern": 1.0, "Basel": 0.9, "Zürich": 1.5})
    table["rent"] = dear * (300 + 14 * table["size"]) + random.normal(0, 40, count)
    table.loc[random.random(count) < 0.05, "city"] = None
    table.loc[random.random(count) < 0.05, "size"] = np.nan
    return table


def pipeline() -> Pipeline:
    """Return the model with all that its columns need, so that it takes them as they are."""
    encoder = OneHotEncoder(handle_unknown="ignore")
    city = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)
    columns = ColumnTransformer(
        [("city", city, ["city"]), ("size", SimpleImputer(), ["size"])], remainder="passthrough"
    )
    return make_pipeline(columns, RandomForestRegressor(50, random_state=0))


def main(path: Path) -> None:
    """Train on some of the homes, say how far off the rents of the others are, save the model."""
    table = homes(600)
    known, unknown = table[:500], table[500:]
    model = pipeline().fit(known.drop(columns="rent"), known["rent"])
    off = np.abs(model.predict(unknown.drop(columns="rent")) - unknown["rent"]).mean()
    path.parent.mkdir(parents=True, exist_ok=True)
    skops.io.dump(model, path)
    print(f"{path}: a random forest, off by {off:.0f} a month on {len(unknown)} other homes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/homes.skops"))
