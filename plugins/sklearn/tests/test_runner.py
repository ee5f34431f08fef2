"""What the runner of an estimator says of itself."""

from __future__ import annotations

import pytest
import sklearn
from mlserve_sklearn.backend import SklearnBackend

from mlserve.artifact import Artifact
from mlserve.backend import RunsOn, runs_on
from mlserve.load_options import LoadOptions

pytestmark = pytest.mark.framework


def test_a_runner_says_what_it_runs_on(iris_artifact: Artifact) -> None:
    runner = SklearnBackend().load(iris_artifact, LoadOptions())

    found = runs_on(runner, "sklearn", iris_artifact.manifest)

    assert found == RunsOn(f"scikit-learn {sklearn.__version__}", "native precision", "CPU")
