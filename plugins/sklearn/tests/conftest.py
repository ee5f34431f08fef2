"""What this plugin's tests share: estimators in files, opened as the export opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skops.io
from mlserve_sklearn.source import SklearnSource
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlserve.artifact import Artifact
from mlserve.export import no_progress
from mlserve.sources import ModelRequest, TensorModel
from mlserve.testing.artifacts import exported

Opened = Callable[..., TensorModel]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Opens a fitted estimator: it is saved as skops, with a ModelRequest of the given options."""

    def open_(estimator: Any, **options: Any) -> TensorModel:
        path = tmp_path / "model.skops"
        skops.io.dump(estimator, path)
        return SklearnSource().open(ModelRequest("m", str(path), **options), no_progress)

    return open_


@pytest.fixture(scope="session")
def iris() -> LogisticRegression:
    names = load_iris()
    return LogisticRegression(max_iter=500).fit(names.data, names.target_names[names.target])


@pytest.fixture(scope="session")
def iris_model(iris: LogisticRegression, tmp_path_factory: pytest.TempPathFactory) -> TensorModel:
    path = tmp_path_factory.mktemp("iris") / "iris.skops"
    skops.io.dump(iris, path)
    return SklearnSource().open(ModelRequest("iris", str(path)), no_progress)


@pytest.fixture(scope="session")
def iris_artifact(iris_model: TensorModel, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported("sklearn", iris_model, tmp_path_factory.mktemp("models") / "iris")
