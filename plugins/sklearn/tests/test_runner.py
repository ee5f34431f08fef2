"""What the runner of an estimator says of itself, and that it answers as the estimator does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from mlserve_sklearn.backend import SklearnBackend
from mlserve_sklearn.inputs import inputs_of, with_type
from mlserve_sklearn.runner import SklearnRunner
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from mlserve.artifact import Artifact
from mlserve.backend import RunsOn, runs_on
from mlserve.cli.app import app
from mlserve.compare.targets import resolve
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.precision import NATIVE
from mlserve.sources import ModelRequest, TensorModel
from mlserve.tensors import DType, TensorSpec

pytestmark = pytest.mark.framework

Opened = Callable[..., TensorModel]


def test_a_runner_says_what_it_runs_on(iris_artifact: Artifact) -> None:
    runner = SklearnBackend().load(iris_artifact, LoadOptions())

    found = runs_on(runner, "sklearn", iris_artifact.manifest)

    assert found == RunsOn(f"scikit-learn {sklearn.__version__}", NATIVE, "CPU")


def test_the_precision_has_one_word_everywhere(iris: LogisticRegression, tmp_path: Path) -> None:
    skops.io.dump(iris, tmp_path / "iris.skops")
    request = ModelRequest("iris", str(tmp_path / "iris.skops"))
    artifact = export(request, "sklearn", store=tmp_path)
    command = ["models", "--store", str(tmp_path), "--output", "json"]
    listed = CliRunner().invoke(app, command, catch_exceptions=False)
    [target] = resolve(["sklearn"], store=tmp_path)
    loaded = SklearnBackend().load(artifact, LoadOptions())

    assert [row["precision"] for row in json.loads(listed.stdout)] == [NATIVE]
    assert target.precision == runs_on(loaded, "sklearn", None).precision == NATIVE


def test_labels_beyond_int64_keep_their_value(opened: Opened) -> None:
    ids = np.array([3, 2**63 + 5], dtype=np.uint64)
    estimator = DecisionTreeClassifier().fit([[0.0], [1.0]], ids)

    answers = opened(estimator).content.runner.answers({"x": np.array([[1.0], [0.0]])})

    assert [int(label) for label in answers["label"]] == [2**63 + 5, 3]


def test_several_labels_that_come_sparse_are_numbers(opened: Opened) -> None:
    rows, labels = np.eye(4), np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    estimator = OneVsRestClassifier(LogisticRegression(C=1e6)).fit(rows, csr_array(labels))

    answers = opened(estimator).content.runner.answers({"x": rows})

    assert answers["label"].tolist() == labels.tolist()


def test_dates_as_labels_are_text(opened: Opened) -> None:
    dates = np.array(["2020-01-01", "2021-06-30"], dtype="datetime64[D]")
    model = opened(DecisionTreeClassifier().fit([[0.0], [1.0]], dates))

    answers = model.content.runner.answers({"x": np.array([[1.0], [0.0]])})

    assert answers["label"].tolist() == [b"2021-06-30", b"2020-01-01"]
    assert model.details["classes"] == ["2020-01-01", "2021-06-30"]


def test_an_estimator_that_overwrites_its_rows_leaves_those_of_the_request(opened: Opened) -> None:
    rows = np.random.default_rng(0).normal(3, 2, (20, 2))
    steps = make_pipeline(StandardScaler(copy=False), LogisticRegression())
    runner = opened(steps.fit(rows.copy(), rows[:, 0] > 3)).content.runner

    asked = rows.copy()
    first = runner.answers({"x": asked})

    assert np.array_equal(asked, rows)
    assert np.array_equal(runner.answers({"x": asked})["probabilities"], first["probabilities"])


def _overwritten(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[:, "a"] = frame["a"] * 2
    return frame


@pytest.mark.parametrize("b", [[0.5, 0.5], ["x", "y"]], ids=["numbers", "mixed"])
def test_a_step_that_overwrites_a_data_frame_leaves_the_rows_of_the_request(b: list[Any]) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": b})
    columns = ColumnTransformer([("a", "passthrough", ["a"])])
    steps = make_pipeline(FunctionTransformer(_overwritten), columns, LinearRegression())
    steps.fit(frame.copy(), 10 * frame["a"])
    found = inputs_of(steps) if b[0] == 0.5 else with_type(inputs_of(steps), "b", DType.BYTES)
    texts = np.array([str(value).encode() for value in b], object)
    values = {"a": frame["a"].to_numpy(), "b": texts if b[0] == "x" else frame["b"].to_numpy()}
    asked = found.joined(values)
    before = {name: array.copy() for name, array in asked.items()}

    answers = SklearnRunner(steps, found).answers(asked)

    assert np.allclose(answers["prediction"], 10 * frame["a"])
    assert all(np.array_equal(asked[name], before[name]) for name in asked)


@pytest.mark.parametrize(
    ("last", "method", "output"),
    [
        (LogisticRegression(), "predict_proba", "probabilities"),
        (IsolationForest(n_estimators=5, random_state=0), "decision_function", "score"),
    ],
)
def test_an_estimator_that_overwrites_its_rows_is_asked_for_each_output_about_the_same(
    last: BaseEstimator, method: str, output: str, opened: Opened
) -> None:
    rows = np.random.default_rng(0).normal(3, 2, (20, 2))
    steps = make_pipeline(StandardScaler(copy=False), clone(last))
    steps.fit(rows.copy(), rows[:, 0] > 3)
    expected = getattr(steps, method)(rows.copy())

    answers = opened(steps).content.runner.answers({"x": rows})

    assert np.allclose(answers[output], expected)


def test_what_takes_only_the_type_it_was_fitted_on_gets_float32(opened: Opened) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    estimator = KMeans(2, n_init=1, random_state=0).fit(rows)

    model = opened(estimator)

    assert model.signatures[0].inputs == (TensorSpec("x", DType.FLOAT32, (None, 2)),)
    labels = model.content.runner.answers({"x": rows})["label"]
    assert np.array_equal(labels, estimator.predict(rows))


@pytest.mark.parametrize("is_frame", [True, False])
def test_ids_that_a_float_cannot_tell_apart_are_integers(is_frame: bool, opened: Opened) -> None:
    ids = np.array([[2**53], [2**53 + 1], [2**53 + 2]])
    rows = pd.DataFrame(ids, columns=["id"]) if is_frame else ids
    encoder = OneHotEncoder(handle_unknown="ignore")
    estimator = make_pipeline(encoder, DecisionTreeClassifier()).fit(rows, ["a", "b", "c"])

    model = opened(estimator)

    (spec,) = model.signatures[0].inputs
    assert spec == TensorSpec(
        *(("id", DType.INT64, (None,)) if is_frame else ("x", DType.INT64, (None, 1)))
    )
    asked = {spec.name: ids[:, 0] if is_frame else ids}
    assert model.content.runner.answers(asked)["label"].tolist() == [b"a", b"b", b"c"]
