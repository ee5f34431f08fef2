"""Estimators of many kinds give their own answers on both backends, or are refused with reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from mlserve_onnxruntime.same_answers import TOLERANCE
from sklearn import (
    cluster,
    datasets,
    ensemble,
    gaussian_process,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    svm,
    tree,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

from mlserve import plugins
from mlserve.errors import ExportError
from mlserve.load_options import LoadOptions
from mlserve.sources import TensorModel
from mlserve.testing.artifacts import exported

Opened = Callable[..., TensorModel]
pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]


def _named_iris() -> tuple[Any, Any]:
    iris = datasets.load_iris(as_frame=True)
    return iris.data, iris.target_names[iris.target]


def _several(load: Any, *more: Any) -> tuple[Any, Any]:
    rows, targets = load(return_X_y=True)
    return rows, np.stack([make(targets) for make in more], axis=1)


def _people() -> tuple[Any, Any]:
    """Numbers, integers, booleans and text, with gaps in numbers and text."""
    random, n = np.random.default_rng(0), 120
    rows = pd.DataFrame(
        {
            "age": random.normal(40, 10, n),
            "city": random.choice(["Bern", "Köln", None], n),
            "rooms": random.integers(1, 6, n),
            "owner": random.random(n) > 0.5,
            "sex": random.choice(["f", "m"], n),
        }
    )
    rows.loc[::7, "age"] = np.nan
    return rows, np.where((rows.age > 40) ^ (rows.city == "Bern"), "yes", "no")


def _odd_names() -> tuple[Any, Any]:
    """Columns whose names are no identifiers, two of them alike but for that."""
    rows, targets = _people()
    return rows[["age", "city"]].set_axis(["größe (m²)", "größe_(m²)"], axis=1), targets


_GOOD = ["good morning", "a good day", "Good!", "nice evening"]
_BAD = ["bad morning", "awful day", "Bad", "terrible evening"]
DATA: dict[str, Any] = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "named iris": _named_iris,
    "iris frame": lambda: datasets.load_iris(return_X_y=True, as_frame=True),
    "cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "labels": lambda: _several(datasets.load_iris, lambda y: y == 0, lambda y: y < 2),
    "targets": lambda: _several(datasets.load_diabetes, lambda y: y, lambda y: 2 * y),
    "people": _people,
    "people's numbers": lambda: (_people()[0][["age", "rooms", "owner"]], _people()[1]),
    "odd names": _odd_names,
    "odd numbers": lambda: (
        _people()[0][["age", "rooms"]].set_axis(["a b", "1"], axis=1),
        _people()[1],
    ),
    "one number": lambda: (_people()[0][["age"]], _people()[1]),
    "texts": lambda: (_GOOD + _BAD, [True] * 4 + [False] * 4),
    "things": lambda: (np.array([["a", 1.5], ["b", 2], ["a", 3]], dtype=object), [0, 1, 0]),
}


def _by_odd_names(*rest: Any) -> Any:
    encoder = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    parts = [("city", encoder, ["größe_(m²)"]), ("size", SimpleImputer(), ["größe (m²)"])]
    return make_pipeline(ColumnTransformer(parts), *rest)


def _by_column(*scaler: Any) -> ColumnTransformer:
    text = make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
    )
    return ColumnTransformer(
        [
            ("age", make_pipeline(SimpleImputer(), *scaler), ["age"]),
            ("city", text, ["city"]),
            ("sex", OneHotEncoder(), ["sex"]),
            ("rest", "passthrough", ["rooms", "owner"]),
        ]
    )


def _voting() -> Any:
    members = [
        ("a", linear_model.LogisticRegression(max_iter=500)),
        ("b", tree.DecisionTreeClassifier(random_state=0)),
    ]
    return ensemble.VotingClassifier(members, voting="soft")


_N: dict[str, Any] = {"n_estimators": 5, "random_state": 0}
_QUIET: dict[str, Any] = {**_N, "verbose": -1}
CASES: dict[str, tuple[str, Any]] = {
    "logistic": ("named iris", linear_model.LogisticRegression(max_iter=500)),
    "scaled logistic": (
        "cancer",
        make_pipeline(StandardScaler(), linear_model.LogisticRegression()),
    ),
    "SGD": ("iris", linear_model.SGDClassifier(random_state=0)),
    "ridge classifier": ("wine", linear_model.RidgeClassifier()),
    "LDA": ("iris", LinearDiscriminantAnalysis()),
    "naive Bayes": ("iris", naive_bayes.GaussianNB()),
    "tree": ("cancer", tree.DecisionTreeClassifier(random_state=0)),
    "forest": ("cancer", ensemble.RandomForestClassifier(**_N)),
    "scaled forest": ("wine", make_pipeline(MinMaxScaler(), ensemble.RandomForestClassifier(**_N))),
    "extra trees": ("named iris", ensemble.ExtraTreesClassifier(**_N)),
    "gradient boosting": ("iris", ensemble.GradientBoostingClassifier(**_N)),
    "histogram boosting": ("iris", ensemble.HistGradientBoostingClassifier(max_iter=5)),
    "histogram regression": ("diabetes", ensemble.HistGradientBoostingRegressor(max_iter=5)),
    "AdaBoost": ("iris", ensemble.AdaBoostClassifier(**_N)),
    "bagging": ("iris", ensemble.BaggingClassifier(max_features=0.5, **_N)),
    "voting": ("iris", _voting()),
    "calibrated": ("iris", CalibratedClassifierCV(linear_model.LogisticRegression(max_iter=500))),
    "grid": (
        "iris",
        GridSearchCV(tree.DecisionTreeClassifier(random_state=0), {"max_depth": [2, 3]}),
    ),
    "SVC": ("iris", svm.SVC()),
    "SVR": ("diabetes", svm.SVR()),
    "neighbours": ("diabetes", neighbors.KNeighborsRegressor()),
    "MLP": ("iris", neural_network.MLPClassifier((8,), max_iter=50, random_state=0)),
    "PCA": ("digits", make_pipeline(PCA(10), linear_model.LogisticRegression(max_iter=50))),
    "Gaussian process": ("diabetes", gaussian_process.GaussianProcessRegressor()),
    "mixture": ("iris", mixture.GaussianMixture(3, random_state=0)),
    "linear": ("diabetes", linear_model.LinearRegression()),
    "lasso": ("diabetes", linear_model.Lasso()),
    "forest of targets": ("targets", ensemble.RandomForestRegressor(**_N)),
    "linear targets": ("targets", linear_model.LinearRegression()),
    "forest of labels": ("labels", ensemble.RandomForestClassifier(**_N)),
    "one each": ("labels", MultiOutputClassifier(linear_model.LogisticRegression(max_iter=500))),
    "k-means": ("iris", cluster.KMeans(3, n_init=1, random_state=0)),
    "isolation forest": ("cancer", ensemble.IsolationForest(**_N)),
    "one-class SVM": ("iris", svm.OneClassSVM()),
    "XGBoost": ("cancer", xgboost.XGBClassifier(**_N)),
    "XGBoost of a frame": ("iris frame", xgboost.XGBClassifier(**_N)),
    "XGBoost regression": ("diabetes", make_pipeline(StandardScaler(), xgboost.XGBRegressor(**_N))),
    "LightGBM": ("iris", lightgbm.LGBMClassifier(**_QUIET)),
    "LightGBM regression": ("diabetes", lightgbm.LGBMRegressor(**_QUIET)),
    "people": (
        "people",
        make_pipeline(_by_column(StandardScaler()), linear_model.LogisticRegression()),
    ),
    "forest of people": (
        "people",
        make_pipeline(_by_column(), ensemble.RandomForestClassifier(**_N)),
    ),
    "numbers of people": (
        "people's numbers",
        make_pipeline(
            SimpleImputer(strategy="median"), tree.DecisionTreeClassifier(random_state=0)
        ),
    ),
    "one column of several": (
        "people",
        make_pipeline(
            ColumnTransformer([("sex", OrdinalEncoder(), ["sex"])]), tree.DecisionTreeClassifier()
        ),
    ),
    "odd names": ("odd names", _by_odd_names(linear_model.LogisticRegression())),
    "odd numbers": (
        "odd numbers",
        make_pipeline(
            ColumnTransformer([("a", SimpleImputer(), ["a b"]), ("b", "passthrough", ["1"])]),
            linear_model.LogisticRegression(),
        ),
    ),
    "grid of people": (
        "people",
        GridSearchCV(
            make_pipeline(_by_column(StandardScaler()), linear_model.LogisticRegression()),
            {"logisticregression__C": [0.1, 1.0]},
        ),
    ),
    "grid of odd numbers": (
        "odd numbers",
        GridSearchCV(
            make_pipeline(
                ColumnTransformer([("a", SimpleImputer(), ["a b"]), ("b", "passthrough", ["1"])]),
                linear_model.LogisticRegression(),
            ),
            {"logisticregression__C": [0.1, 1.0]},
        ),
    ),
    "columns by their types": (
        "people",
        make_pipeline(
            ColumnTransformer(
                [
                    ("numbers", SimpleImputer(), make_column_selector(dtype_include=np.number)),
                    (
                        "text",
                        OneHotEncoder(),
                        make_column_selector(pattern="sex", dtype_include=[object, "str"]),
                    ),
                ]
            ),
            SelectKBest(k=2),
            linear_model.LogisticRegression(),
        ),
    ),
    "one number by name": (
        "one number",
        make_pipeline(
            ColumnTransformer([("age", SimpleImputer(), ["age"])]),
            linear_model.LogisticRegression(),
        ),
    ),
    "texts": ("texts", make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression())),
    "things": (
        "things",
        make_pipeline(
            ColumnTransformer([("a", OneHotEncoder(), [0])], remainder="passthrough"),
            linear_model.LogisticRegression(),
        ),
    ),
}
REFUSED: dict[str, tuple[str, Any, str]] = {
    "bins": (
        "iris",
        make_pipeline(
            KBinsDiscretizer(4, encode="onehot-dense"),
            linear_model.LogisticRegression(max_iter=500),
        ),
        "test rows",
    ),
    "ties of neighbours": ("iris", neighbors.KNeighborsClassifier(), "probabilities differs in"),
    "local outliers": (
        "iris",
        neighbors.LocalOutlierFactor(novelty=True),
        "score differs in",
    ),
    "calibrated people": (
        "people",
        CalibratedClassifierCV(
            make_pipeline(_by_column(StandardScaler()), linear_model.LogisticRegression()), cv=2
        ),
        "at most 1 input",
    ),
    "hashed texts": (
        "texts",
        make_pipeline(HashingVectorizer(n_features=64), linear_model.SGDClassifier()),
        "skl2onnx does not convert it",
    ),
}


def _fitted(data: str, estimator: Any) -> tuple[Any, Any]:
    rows, targets = DATA[data]()
    return estimator.fit(rows, targets), rows


def _asked(signature: Any, rows: Any) -> dict[str, Any]:
    """Return the training rows as the inputs of a request."""
    names = [spec.name for spec in signature.inputs]
    if names == ["x"]:
        return {"x": np.asarray(rows, dtype=np.float64)}
    if names == ["text"]:
        return {"text": _texts(rows)}
    columns = {f"x{i}": rows[:, i] for i in range(2)} if isinstance(rows, np.ndarray) else rows
    return {
        spec.name: _texts(columns[spec.name])
        if spec.dtype.label == "bytes"
        else np.asarray(columns[spec.name], dtype=spec.dtype.label)
        for spec in signature.inputs
    }


def _texts(values: Any) -> Any:
    """Return strings as a request has them: a missing one is empty."""
    return np.array([b"" if pd.isna(value) else value.encode() for value in values], dtype=object)


def _own_answers(estimator: Any, rows: Any) -> list[Any]:
    """Return what the estimator itself says: labels or predictions, then scores."""
    first = np.asarray(estimator.predict(rows))
    scores = []
    if hasattr(estimator, "predict_proba"):
        proba = estimator.predict_proba(rows)
        scores = proba if isinstance(proba, list) else [proba]
    elif isinstance(estimator, ensemble.IsolationForest | svm.OneClassSVM) or hasattr(
        estimator, "novelty"
    ):
        scores = [estimator.decision_function(rows)]
    if first.dtype.kind in "OUT":
        first = np.vectorize(lambda text: text.encode(), otypes=[object])(first)
    return [first, *scores]


@pytest.mark.parametrize("case", CASES)
def test_an_estimator_gives_its_own_answers(case: str, opened: Opened, tmp_path: Path) -> None:
    estimator, rows = _fitted(*CASES[case])
    model, expected = opened(estimator), _own_answers(estimator, rows)
    for backend in ("sklearn", "onnxruntime"):
        artifact = exported(backend, model, tmp_path / backend / "m")
        runner = plugins.backend(backend).load(artifact, LoadOptions(threads=1))
        (signature,) = runner.signatures.values()
        assert model.signatures == (signature,)
        answers = runner.run(signature.name, _asked(signature, rows))
        assert list(answers) == [spec.name for spec in signature.outputs]
        assert len(answers) == len(expected)
        for spec, own in zip(signature.outputs, expected, strict=True):
            given = answers[spec.name]
            assert given.shape == own.shape
            if backend == "sklearn" or own.dtype.kind != "f":
                assert (given == own).all()
            else:
                assert given == pytest.approx(
                    own, abs=TOLERANCE * max(1.0, float(np.abs(own).max()))
                )
        runner.close()


@pytest.mark.parametrize("case", REFUSED)
def test_what_onnx_cannot_do_in_the_same_way_is_refused(
    case: str, opened: Opened, tmp_path: Path
) -> None:
    data, estimator, why = REFUSED[case]
    model = opened(_fitted(data, estimator)[0])
    with pytest.raises(ExportError, match=why) as refused:
        exported("onnxruntime", model, tmp_path / "models" / "m")
    assert refused.value.hint == "serve the estimator itself: --backend sklearn"
    assert exported("sklearn", model, tmp_path / "served" / "m").manifest
