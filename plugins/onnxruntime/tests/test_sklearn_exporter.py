"""A conversion of an estimator that answers differently is not exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skops.io
from mlserve_onnxruntime import backend as onnx_backend
from mlserve_onnxruntime import sklearn_exporter
from mlserve_onnxruntime.sklearn_graph import Variant
from mlserve_onnxruntime.sklearn_trees import TreeNumbers
from mlserve_sklearn.source import SklearnSource
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from mlserve import plugins
from mlserve.errors import ExportError, PluginError
from mlserve.export import no_progress
from mlserve.sources import ModelRequest, TensorModel

pytestmark = pytest.mark.framework

Opened = Callable[[Any], TensorModel]
CANCER = load_breast_cancer(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    def open_(estimator: Any) -> TensorModel:
        skops.io.dump(estimator, tmp_path / "model.skops")
        request = ModelRequest("m", str(tmp_path / "model.skops"))
        return SklearnSource().open(request, no_progress)

    return open_


def _exported(model: TensorModel, folder: Path) -> Path:
    folder.mkdir()
    plugins.backend("onnxruntime").export(model, folder)
    return folder / "model.onnx"


def _converts(model: TensorModel, other: Any) -> TensorModel:
    """Return the model with another estimator for the conversion, and its own answers."""
    return replace(model, content=replace(model.content, estimator=other))


def test_columns_that_are_swapped_are_noticed(opened: Opened, tmp_path: Path) -> None:
    rows, targets = DIABETES
    model = opened(LinearRegression().fit(rows, targets))
    swapped = LinearRegression().fit(rows[:, [1, 0, *range(2, 10)]], targets)
    with pytest.raises(ExportError, match=r"prediction differs in \d+ of \d+ test rows, by up to"):
        _exported(_converts(model, swapped), tmp_path / "onnx")
    assert not any((tmp_path / "onnx").iterdir())
    assert _exported(model, tmp_path / "right").exists()


def test_another_imputer_is_noticed(opened: Opened, tmp_path: Path) -> None:
    rows, targets = DIABETES
    means = make_pipeline(SimpleImputer(), LinearRegression()).fit(rows, targets)
    medians = make_pipeline(SimpleImputer(strategy="median"), LinearRegression())
    with pytest.raises(ExportError, match=r"prediction differs in \d+ of \d+ test rows"):
        _exported(_converts(opened(means), medians.fit(rows, targets)), tmp_path / "onnx")


def test_float32_is_noticed_at_the_thresholds_of_trees(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(HistGradientBoostingRegressor(max_iter=5).fit(*DIABETES))
    assert _exported(model, tmp_path / "right").exists()
    monkeypatch.setattr(sklearn_exporter, "Variant", [Variant.FLOAT])
    with pytest.raises(ExportError, match=r"prediction differs in \d+ of \d+ test rows"):
        _exported(model, tmp_path / "onnx")


def test_trees_as_the_converter_writes_them_are_noticed(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """skl2onnx leaves out where a missing value goes."""
    model = opened(RandomForestClassifier(5, random_state=0).fit(*CANCER))
    assert _exported(model, tmp_path / "right").exists()
    monkeypatch.setattr(TreeNumbers, "_tree_like", lambda *_: None)
    with pytest.raises(ExportError, match=r"differs in \d+ of \d+ test rows"):
        _exported(model, tmp_path / "onnx")


def test_the_numbers_stay_float64(opened: Opened, tmp_path: Path) -> None:
    graph = onnx.load(_exported(opened(LinearRegression().fit(*DIABETES)), tmp_path / "onnx")).graph
    (x,), (prediction,) = graph.input, graph.output
    assert x.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    assert prediction.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    assert {tensor.data_type for tensor in graph.initializer} >= {onnx.TensorProto.DOUBLE}
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in graph.initializer)


def test_thresholds_are_those_of_the_library(opened: Opened, tmp_path: Path) -> None:
    boosting = HistGradientBoostingRegressor(max_iter=1).fit(*DIABETES)
    graph = onnx.load(_exported(opened(boosting), tmp_path / "onnx")).graph
    (tree,) = (node for node in graph.node if node.op_type == "TreeEnsembleRegressor")
    values = {a.name: onnx.helper.get_attribute_value(a) for a in tree.attribute}
    given = onnx.numpy_helper.to_array(values["nodes_values_as_tensor"])
    nodes = boosting._predictors[0][0].nodes
    assert (given == np.where(nodes["is_leaf"], 0, nodes["num_threshold"])).all()


def test_without_the_converter_the_error_says_what_to_install(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(LinearRegression().fit(*DIABETES))
    monkeypatch.setattr(
        onnx_backend, "absent_modules", lambda names: [n for n in names if n == "skl2onnx"]
    )
    with pytest.raises(PluginError, match="needs skl2onnx, which is not installed") as absent:
        _exported(model, tmp_path / "onnx")
    assert "onnxruntime[sklearn]" in str(absent.value.hint)


def test_a_tree_that_tells_only_missing_values_apart_is_converted(
    opened: Opened, tmp_path: Path
) -> None:
    """Its threshold is infinite, at which skl2onnx would never end."""
    rows = np.array([[1.0], [2.0], [np.nan], [np.nan], [3.0]])
    estimator = DecisionTreeClassifier().fit(rows, [0, 0, 1, 1, 0])
    assert np.isinf(estimator.tree_.threshold[0])
    model = opened(estimator)
    file = _exported(model, tmp_path / "m")
    sessions = onnxruntime.InferenceSession(str(file))
    assert sessions.run(["label"], {"x": rows})[0].tolist() == [0, 0, 1, 1, 0]
