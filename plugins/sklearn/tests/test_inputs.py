"""The inputs that are found, what stands for a missing value, and rows that are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlserve_sklearn.source import SklearnSource
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder

from mlserve.errors import ExportError, InvalidInput
from mlserve.export import no_progress
from mlserve.sources import How, ModelRequest, TensorModel
from mlserve.tensors import TensorSpec

pytestmark = pytest.mark.framework

Opened = Callable[..., TensorModel]
FRAME = pd.DataFrame(
    {
        "city": ["Bern", "Köln", None, "Bern", "Köln", "Bern"],
        "rooms": [1, 2, 3, 1, 2, 3],
        "size": [30.5, 41.0, np.nan, 28.0, 55.0, 70.0],
        "owner": [True, False, True, False, True, False],
        "unused": list("abcdef"),
    }
)
CHEAP = ["yes", "no", "no", "yes", "yes", "no"]


def _frame_model(*text_steps: Any) -> Any:
    columns = ColumnTransformer(
        [
            ("text", make_pipeline(*text_steps), ["city"]),
            ("codes", OneHotEncoder(), ["rooms", "owner"]),
            ("size", SimpleImputer(), ["size"]),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(FRAME, CHEAP)


@pytest.fixture
def homes(opened: Opened) -> Any:
    encoder = OneHotEncoder(handle_unknown="ignore")
    return opened(_frame_model(SimpleImputer(strategy="most_frequent"), encoder)).content.runner


def _row(**values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "city": np.array([b"Bern"], dtype=object),
        "rooms": np.array([1]),
        "size": np.array([30.5]),
        "owner": np.array([True]),
    }
    return row | {name: np.asarray(value) for name, value in values.items()}


def _bytes(*texts: str) -> Any:
    return np.array([text.encode() for text in texts], dtype=object)


def test_a_frame_with_text_has_an_input_for_each_column_that_is_used(homes: Any) -> None:
    (signature,) = homes.signatures.values()
    assert [str(spec) for spec in signature.inputs] == [
        "city: bytes[?]",
        "rooms: int64[?]",
        "size: float64[?]",
        "owner: bool[?]",
    ]


def test_the_order_in_which_columns_are_sent_does_not_matter(homes: Any) -> None:
    row = _row()
    other = homes.answers(dict(reversed(row.items())))
    assert (other["probabilities"] == homes.answers(row)["probabilities"]).all()


def test_an_empty_text_is_missing_where_the_steps_know_missing_text(homes: Any) -> None:
    empty = homes.answers(_row(city=_bytes("")))["probabilities"]
    assert (empty == homes.answers(_row(city=_bytes("Bern")))["probabilities"]).all()
    assert (empty != homes.answers(_row(city=_bytes("Rom")))["probabilities"]).all()


@pytest.mark.parametrize("absent", [None, np.nan])
def test_missing_text_is_what_the_encoder_was_fitted_on(absent: Any, opened: Opened) -> None:
    rows = FRAME[["city"]].astype(object)
    rows.loc[rows.city.isna(), "city"] = absent
    fitted = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, CHEAP)
    model = opened(fitted)
    assert model.details["missing"] == {"city": str(absent)}
    given = model.content.runner.answers({"city": _bytes("", "Bern")})["probabilities"]
    assert (given == fitted.predict_proba(rows.iloc[[2, 0]])).all()


def test_an_empty_text_is_a_text_where_it_was_seen(opened: Opened) -> None:
    rows = FRAME[["city"]].fillna("")
    fitted = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, CHEAP)
    model = opened(fitted)
    assert model.details["missing"] == {}
    given = model.content.runner.answers({"city": _bytes("")})["probabilities"]
    assert (given == fitted.predict_proba(rows.iloc[[2]])).all()


def test_columns_of_numbers_are_one_matrix_with_names(opened: Opened) -> None:
    rows = FRAME[["rooms", "size", "owner"]]
    fitted = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=1).fit(rows, CHEAP)
    model = opened(fitted)
    assert [str(spec) for spec in model.signatures[0].inputs] == ["x: float64[?,3]"]
    assert model.columns == {"x": ("rooms", "size", "owner")}
    given = model.content.runner.answers({"x": rows.to_numpy(np.float64)})["probabilities"]
    assert (given == fitted.predict_proba(rows)).all()


def test_categories_of_histogram_boosting_are_text(opened: Opened) -> None:
    rows = FRAME[["city", "size"]].astype({"city": "category"})
    fitted = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=1).fit(rows, CHEAP)
    model = opened(fitted)
    inputs = {"city": _bytes(*FRAME.city.fillna("")), "size": FRAME["size"].to_numpy()}
    given = model.content.runner.answers(inputs)["probabilities"]
    assert (given == fitted.predict_proba(rows)).all()


def _lengths(frame: Any) -> Any:
    return np.array([[len(text.upper())] for text in frame.iloc[:, 0]])


def test_a_column_that_no_step_tells_of_is_tried(tmp_path: Path) -> None:
    """The function says nothing of its column, and takes text only."""
    steps = make_pipeline(FunctionTransformer(_lengths), LogisticRegression())
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(steps.fit(FRAME[["unused"]], CHEAP)))
    model = SklearnSource().open(ModelRequest("m", str(path), allow_pickle=True), no_progress)
    assert [str(spec) for spec in model.signatures[0].inputs] == ["unused: bytes[?]"]
    assert model.facts["inputs"].how is How.FOUND


def test_inputs_that_the_estimator_does_not_take_are_refused(opened: Opened) -> None:
    encoder = OrdinalEncoder()
    fitted = make_pipeline(encoder, LogisticRegression()).fit(FRAME[["unused"]], CHEAP)
    with pytest.raises(ExportError, match="takes none of the rows that were tried") as refused:
        opened(fitted, inputs=(TensorSpec.from_text("unused:float64[?]"),))
    assert "--input NAME:DTYPE[?] (unused)" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (_row(size=[np.inf]), "row 0, column 'size' is inf"),
        (_row(rooms=[1, 2], size=[1.0, 2.0]), "'rooms' has 2"),
        (_row(rooms=[9]), r"Found unknown categories \[np.int64\(9\)\]"),
        (_row(city=_bytes("")[:0], rooms=[], size=[], owner=[]), r"0 sample\(s\)"),
    ],
)
def test_rows_that_the_estimator_does_not_take_are_refused(
    homes: Any, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        homes.run("serving_default", row)
    assert refused.value.hint
    assert "\n" not in refused.value.message
    assert homes.answers(_row())["label"].tolist() == [b"yes"]


def test_an_unknown_category_is_named_with_its_row_and_column(opened: Opened) -> None:
    rows = FRAME[["city", "unused"]].fillna("Rom")
    fitted = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, CHEAP)
    runner = opened(fitted).content.runner
    with pytest.raises(InvalidInput, match="row 1, column 'unused' is 'q'"):
        runner.answers({"city": _bytes("Bern", "Köln"), "unused": _bytes("a", "q")})
    bad = np.array([b"a", b"\xff"], dtype=object)
    with pytest.raises(InvalidInput, match="row 1 of the column 'unused' is not UTF-8"):
        runner.answers({"city": _bytes("Bern", "Köln"), "unused": bad})


def test_a_missing_number_is_named_where_the_model_takes_none(iris_model: TensorModel) -> None:
    rows = np.ones((3, 4))
    rows[2, 1] = np.nan
    with pytest.raises(InvalidInput, match="row 2, column 'x1' is nan"):
        iris_model.content.runner.answers({"x": rows})


def test_float32_would_change_answers(iris_model: TensorModel) -> None:
    """This is why the matrix is float64."""
    rows = np.random.default_rng(0).normal(3, 2, (200, 4))
    own = iris_model.content.estimator.predict_proba(rows)
    single = iris_model.content.estimator.predict_proba(rows.astype(np.float32))
    assert np.abs(own - single).max() > 1e-9
    assert (iris_model.content.runner.answers({"x": rows})["probabilities"] == own).all()


# scikit-learn hands Python's warning filters to its workers. These belong to all threads, and are
# empty for a moment when another thread does the same: then it warns, and computes the same.
@pytest.mark.filterwarnings("ignore:`sklearn.utils.parallel.delayed`")
def test_many_threads_get_their_own_answers(homes: Any) -> None:
    sizes = [float(size) for size in range(20, 100)]
    alone = [homes.answers(_row(size=[size]))["probabilities"].tolist() for size in sizes]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda size: homes.answers(_row(size=[size])), sizes))
    assert [answer["probabilities"].tolist() for answer in together] == alone


def test_a_none_that_an_imputer_of_nan_leaves_alone_is_the_category_that_it_became(
    opened: Opened,
) -> None:
    rows = pd.DataFrame({"city": np.array(["Bern", "Köln", None] * 2, dtype=object)})
    imputer = SimpleImputer(strategy="constant", fill_value="elsewhere")
    steps = make_pipeline(imputer, OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    fitted = steps.fit(rows, ["yes", "no", "yes"] * 2)

    given = opened(fitted).content.runner.answers({"city": _bytes("", "Bern", "Köln")})

    assert (given["probabilities"] == fitted.predict_proba(rows[:3].iloc[[2, 0, 1]])).all()


def test_codes_that_no_category_has_do_not_end_the_export(opened: Opened) -> None:
    """The thresholds of the trees are looked up in the encoder, which does not know them all."""
    rows = FRAME[["rooms", "size"]].fillna(0.0)
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("rooms", codes, ["rooms"])], remainder="passthrough")
    fitted = make_pipeline(columns, RandomForestClassifier(5, random_state=0)).fit(rows, CHEAP)

    given = opened(fitted).content.runner.answers({"x": rows.to_numpy(dtype=float)})

    assert (given["probabilities"] == fitted.predict_proba(rows)).all()
