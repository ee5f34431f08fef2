"""What is read: skops with trusted types, pickles on request, and the version that wrote them."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
from mlserve_sklearn.source import SklearnSource
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.errors import ExportError, ModelLoadFailed, UsageError
from mlserve.export import export, no_progress
from mlserve.load_options import LoadOptions
from mlserve.sources import How, Kind, ModelRequest, TensorModel
from mlserve.testing.artifacts import exported
from tests.harness.command import Command

pytestmark = pytest.mark.framework

Opened = Callable[..., TensorModel]
ROWS, CLASSES = load_iris(return_X_y=True)


class OfTheUser(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A class that skops cannot know."""

    def fit(self, rows: Any, classes: Any) -> OfTheUser:
        self.classes_, self.n_features_in_ = np.unique(classes), rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        return np.zeros(len(rows), dtype=np.int64)


class Talks(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Prints as it is unpickled, as a user's own class may; and leaves the rows as they are."""

    def fit(self, rows: Any, classes: Any = None) -> Talks:
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, rows: Any) -> Any:
        return rows

    def __setstate__(self, state: Any) -> None:
        print("read from the file")  # noqa: T201
        super().__setstate__(state)


class RunsCode:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "it ran")


def _open(path: Path, **options: Any) -> TensorModel:
    return SklearnSource().open(ModelRequest("m", str(path), **options), no_progress)


def _load(artifact: Artifact, **options: Any) -> Any:
    return plugins.backend("sklearn").load(artifact, LoadOptions(**options))


def _pickled(estimator: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(estimator))
    return path


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib"])
def test_a_pickle_is_not_read_unless_it_is_allowed(suffix: str, tmp_path: Path) -> None:
    proof, file = tmp_path / "proof", tmp_path / f"model{suffix}"
    _pickled(RunsCode(proof), file)
    with pytest.raises(ExportError, match="can run any code when it is read") as refused:
        _open(file)
    assert "--allow-pickle" in str(refused.value.hint)
    (tmp_path / "m" / "1").mkdir(parents=True)
    shutil.copy(file, tmp_path / "m" / "1")
    with pytest.raises(ModelLoadFailed, match="can run any code"):
        _load(Artifact.open(tmp_path / "m", "m", 1))
    assert not proof.exists()
    with pytest.raises(ExportError, match="which has no predict"):
        _open(file, allow_pickle=True)
    assert proof.read_text() == "it ran"  # so the test above could have failed


def test_what_a_pickle_prints_is_not_taken_for_the_answer(cli: Command) -> None:
    file = cli.folder / "model.joblib"
    pipeline = Pipeline([("talk", Talks()), ("trees", KNeighborsClassifier())])
    joblib.dump(pipeline.fit(ROWS, CLASSES), file)
    args = ("--backend", "sklearn", "--model", "talks", "--weights", file, "--allow-pickle")
    done = cli("export", *args, "--output", "json", env={"PYTHONPATH": str(Path(__file__).parent)})
    assert done.json()["model"] == "talks"
    assert "read from the file" in done.stderr


@pytest.mark.parametrize("dump", [pickle.dump, joblib.dump], ids=["pickle", "joblib"])
def test_a_pickle_becomes_skops_and_is_served_without_a_flag(dump: Any, tmp_path: Path) -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(ROWS, CLASSES)
    with (tmp_path / "model.joblib").open("wb") as file:
        dump(forest, file)
    model = _open(tmp_path / "model.joblib", allow_pickle=True)
    artifact = exported("sklearn", model, tmp_path / "models" / "m")
    assert sorted(path.name for path in artifact.path.iterdir()) == ["mlserve.json", "model.skops"]
    answers = _load(artifact).run("serving_default", {"x": ROWS})
    assert (answers["probabilities"] == forest.predict_proba(ROWS)).all()


def test_what_skops_cannot_hold_stays_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfTheUser, "__module__", "of_the_user")
    monkeypatch.setitem(
        __import__("sys").modules, "of_the_user", __import__("types").ModuleType("m")
    )
    monkeypatch.setattr(__import__("of_the_user"), "OfTheUser", OfTheUser, raising=False)
    file = _pickled(OfTheUser().fit(ROWS, CLASSES), tmp_path / "model.pkl")
    model = _open(file, allow_pickle=True)
    assert "of_the_user.OfTheUser" in model.facts["file"].why
    assert "--allow-pickle" in model.facts["file"].warning
    artifact = exported("sklearn", model, tmp_path / "models" / "m")
    with pytest.raises(ModelLoadFailed, match=r"model\.pkl is a pickle"):
        _load(artifact)
    assert (
        _load(artifact, allow_pickle=True).run("serving_default", {"x": ROWS})["label"].sum() == 0
    )
    skops.io.dump(OfTheUser().fit(ROWS, CLASSES), tmp_path / "model.skops")
    with pytest.raises(ExportError, match=r"in --trusted-types: of_the_user\.OfTheUser") as refused:
        _open(tmp_path / "model.skops")
    assert "--trusted-types of_the_user.OfTheUser" in str(refused.value.hint)
    trusted = _open(tmp_path / "model.skops", trusted_types=("of_the_user.OfTheUser",))
    artifact = exported("sklearn", trusted, tmp_path / "trusted" / "m")
    with pytest.raises(ModelLoadFailed, match="not known to be safe"):
        _load(artifact)
    _load(artifact, trusted_types="of_the_user.OfTheUser").close()


def _of_version(file: Path, version: str) -> Path:
    """Rewrite a skops file as if another scikit-learn had written it."""
    other = file.with_name(f"of-{version}.skops")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, text.replace(sklearn.__version__.encode(), version.encode()))
    return other


@pytest.mark.parametrize("kind", ["skops", "pickle", "compressed joblib"])
def test_another_version_is_refused_with_both_names(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regression = LogisticRegression(max_iter=500).fit(ROWS, CLASSES)
    skops.io.dump(regression, tmp_path / "model.skops")
    with monkeypatch.context() as patched:
        patched.setattr("sklearn.base.__version__", "1.2.3")
        _pickled(regression, tmp_path / "old.pkl")
        joblib.dump(regression, tmp_path / "old.joblib", compress=3)
    files = {
        "skops": _of_version(tmp_path / "model.skops", "1.2.3"),
        "pickle": tmp_path / "old.pkl",
        "compressed joblib": tmp_path / "old.joblib",
    }
    with pytest.raises(ExportError) as refused:
        _open(files[kind], allow_pickle=True)
    assert "scikit-learn 1.2.3" in refused.value.message
    assert sklearn.__version__ in refused.value.message
    assert "--allow-version-mismatch" in str(refused.value.hint)
    model = _open(files[kind], allow_pickle=True, allow_version_mismatch=True)
    assert model.libraries["scikit-learn"] == "1.2.3"
    artifact = exported("sklearn", model, tmp_path / "models" / "m")
    with pytest.raises(ModelLoadFailed, match=r"1\.2\.3"):
        _load(artifact)
    _load(artifact, allow_version_mismatch=True).close()


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (StandardScaler().fit(ROWS), "StandardScaler, which has no predict"),
        (LocalOutlierFactor().fit(ROWS), "LocalOutlierFactor, which has no predict"),
        ({"model": LogisticRegression()}, "dict, which has no predict"),
        (LogisticRegression(), "does not say how many columns"),
    ],
)
def test_what_cannot_predict_is_refused(saved: Any, words: str, tmp_path: Path) -> None:
    skops.io.dump(saved, tmp_path / "model.skops")
    with pytest.raises(ExportError, match=words) as refused:
        _open(tmp_path / "model.skops")
    assert refused.value.hint


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip"])
def test_a_damaged_file_is_refused(data: bytes, tmp_path: Path) -> None:
    for suffix in (".skops", ".joblib"):
        (tmp_path / f"model{suffix}").write_bytes(data)
        with pytest.raises(ExportError, match=rf"model\{suffix}") as refused:
            _open(tmp_path / f"model{suffix}", allow_pickle=True)
        assert refused.value.hint


def _changed(file: Path, change: Callable[[Any], None], array: str) -> None:
    """Change the array of a skops file that has this field."""
    with zipfile.ZipFile(file) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, content in contents.items():
            if name.endswith(".npy"):
                path = file.with_name("one.npy")
                path.write_bytes(content)
                values = np.load(path)
                if array in (values.dtype.names or ()):
                    change(values)
                    np.save(path, values)
                    content = path.read_bytes()  # noqa: PLW2901
            new.writestr(name, content)


def _set(field: str, value: int) -> Callable[[Any], None]:
    def change(nodes: Any) -> None:
        nodes[field][0] = value

    return change


@pytest.mark.parametrize("value", [-2, 0, 10**6], ids=["negative", "a loop", "outside"])
@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
def test_a_tree_that_leads_out_of_itself_is_not_run(field: str, value: int, tmp_path: Path) -> None:
    if (field, value) == ("feature", 0):
        pytest.skip("a tree may ask about the first column")
    file = tmp_path / "model.skops"
    skops.io.dump(RandomForestClassifier(2, random_state=0).fit(ROWS, CLASSES), file)
    _open(file)
    _changed(file, _set(field, value), "left_child")
    with pytest.raises(ExportError, match="a node of a tree"):
        _open(file)


@pytest.mark.parametrize("field", ["left", "right", "feature_idx"])
def test_nor_is_one_of_histogram_boosting(field: str, tmp_path: Path) -> None:
    file = tmp_path / "model.skops"
    skops.io.dump(HistGradientBoostingClassifier(max_iter=2).fit(ROWS, CLASSES), file)
    _changed(file, _set(field, 10**6), "feature_idx")
    with pytest.raises(ExportError, match="a node of a tree"):
        _open(file)


def test_nor_is_one_of_neighbours(tmp_path: Path) -> None:
    file = tmp_path / "model.skops"
    skops.io.dump(KNeighborsClassifier(algorithm="kd_tree").fit(ROWS, CLASSES), file)
    _open(file)
    _changed(file, _set("idx_end", 10**6), "idx_start")
    with pytest.raises(ExportError, match="a node of a tree"):
        _open(file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": ("a", "b")}, "--labels is for image classifiers"),
        ({"top_k": 5}, "--top-k is for image classifiers"),
        ({"kind": Kind.IMAGE_CLASSIFIER}, "--kind image-classifier: m is exported as tensors only"),
    ],
)
def test_options_of_image_classifiers_are_refused_before_the_file_is_read(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "m.skops").write_text("not a model")
    with pytest.raises(UsageError, match=words):
        export(ModelRequest("m", str(tmp_path / "m.skops"), **options), store=tmp_path / "store")


def test_the_manifest_has_the_classes_and_the_versions(
    iris: LogisticRegression, tmp_path: Path
) -> None:
    skops.io.dump(iris, tmp_path / "iris.skops")
    request = ModelRequest("iris", str(tmp_path / "iris.skops"))
    artifact = export(request, "sklearn", store=tmp_path / "store")
    stored = json.loads((artifact.path / "mlserve.json").read_text())
    assert stored["details"]["classes"] == ["setosa", "versicolor", "virginica"]
    assert stored["libraries"]["scikit-learn"] == sklearn.__version__
    assert stored["facts"]["classes"]["why"] == "setosa, versicolor, virginica"
    assert export(request, store=tmp_path / "store").path.parent == artifact.path.parent


def test_a_manifest_of_another_model_is_noticed(
    iris_model: TensorModel, opened: Opened, tmp_path: Path
) -> None:
    artifact = exported("sklearn", iris_model, tmp_path / "models" / "iris")
    skops.io.dump(LogisticRegression().fit(ROWS[:, :2], CLASSES), artifact.path / "model.skops")
    with pytest.raises(ModelLoadFailed, match=r"iris/1.*x: float64"):
        _load(artifact)


def test_facts_say_what_was_given(opened: Opened) -> None:
    from mlserve.tensors import TensorSpec

    plain = LogisticRegression(max_iter=500).fit(ROWS, CLASSES)
    given = opened(plain, inputs=(TensorSpec.from_text("x:float32[?,4]"),))
    assert given.facts["inputs"].how is How.GIVEN
    assert str(given.signatures[0].inputs[0]) == "x: float32[?,4]"
    same = opened(plain, inputs=(TensorSpec.from_text("x:float64[?,4]"),))
    assert same.facts["inputs"].how is How.FOUND
    with pytest.raises(ExportError, match="do not fit the columns") as refused:
        opened(plain, inputs=(TensorSpec.from_text("y:float32[?,4]"),))
    assert "x0" in refused.value.message
    assert replace(same, name="n").content is same.content
