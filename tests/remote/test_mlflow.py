"""MLflow: models and artifacts that the real mlflow has logged, in a file store and on a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import TensorProto, helper

from mlserve.errors import ExportError, NotFound, UsageError
from mlserve.export import export, no_progress
from mlserve.remote.mlmodel import model_in
from mlserve.remote.resolving import localized
from mlserve.sources import ModelRequest
from tests.harness.file_server import FileServer
from tests.remote.conftest import Get

pytestmark = [
    pytest.mark.framework,  # importing mlflow takes more than a second
    pytest.mark.filterwarnings("ignore"),  # and it warns of itself
]


@dataclass(frozen=True)
class Logged:
    """What mlflow has logged: `path` is the folder of its store."""

    path: Path
    run: str
    model: str


def _identity() -> Any:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in ("x", "y")
    ]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    path = tmp_path_factory.mktemp("mlflow") / "mlruns"  # mlflow makes it, with an experiment
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        import mlflow.onnx

        mlflow.set_tracking_uri(path.as_uri())
        with mlflow.start_run() as run:
            info = mlflow.onnx.log_model(
                _identity(),
                name="model",
                registered_model_name="tiny",
                pip_requirements=["onnx"],
            )
            mlflow.log_text("a\nb\n", "notes/labels.txt")
        mlflow.MlflowClient().set_registered_model_alias("tiny", "prod", "1")
        yield Logged(path, run.info.run_id, info.model_id)


@pytest.fixture
def store(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> Logged:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged.path.as_uri())
    return logged


@pytest.mark.parametrize(
    "url",
    [
        "models:/tiny/1",
        "models:/tiny@prod",
        "models:/tiny/latest",
        "models:/{model}",
        "runs:/{run}/model",
    ],
)
def test_a_model_by_each_of_its_addresses(store: Logged, url: str, arrived: list[str]) -> None:
    url = url.format(model=store.model, run=store.run)
    request, fetched = localized(ModelRequest("m", weights=url), no_progress)
    assert request.weights_path is not None
    assert request.weights_path.name == "model.onnx"
    assert onnx.load(str(request.weights_path)) == _identity()
    assert fetched["weights"].copy.url == url
    assert store.model in fetched["weights"].copy.resolved
    localized(ModelRequest("m", weights=url), no_progress)
    assert len(arrived) == 1


def test_an_artifact_of_a_run(store: Logged, get: Get) -> None:
    copy = get(f"runs:/{store.run}/notes/labels.txt").copy
    assert (copy.path.name, copy.path.read_text()) == ("labels.txt", "a\nb\n")
    assert (get(f"runs:/{store.run}/notes").copy.path / "labels.txt").is_file()
    assert get(f"runs:/{store.run}/model/MLmodel").copy.path.name == "MLmodel"


def test_an_export_says_where_the_model_is_from(store: Logged) -> None:
    artifact = export(ModelRequest("tiny", weights="models:/tiny@prod"), "onnxruntime")
    manifest = artifact.manifest
    assert manifest is not None
    assert "models:/tiny@prod/model.onnx" in manifest.source
    origin = manifest.fetched["weights"]
    assert (origin["url"], origin["unchecked"]) == ("models:/tiny@prod", "")
    assert json.loads((artifact.path / "mlserve.json").read_text())["fetched"]["weights"] == origin


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("models:/tiny/9", NotFound, "has no version 9 of the model tiny"),
        ("models:/none/1", NotFound, "has no version 1 of the model none"),
        ("models:/tiny@blue", NotFound, "has no alias blue of the model tiny"),
        ("models:/m-none", NotFound, "has no model m-none"),
        ("runs:/none/model", NotFound, "has no run none"),
        ("runs:/{run}/nothing", NotFound, "there is nothing at"),
        ("models:/tiny", UsageError, "names no version"),
        ("models:/tiny/Production", UsageError, "names a stage"),
        ("runs:/{run}", UsageError, "names no artifact"),
        ("runs:/{run}/../../x", ExportError, "outside its folder"),
        ("models:/../../x", ExportError, "outside its folder"),
        ("runs:/*/model", ExportError, "outside its folder"),
    ],
)
def test_what_is_not_there_is_named(
    store: Logged, get: Get, url: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        get(url.format(run=store.run))


def test_without_a_tracking_server(get: Get, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs a tracking server"):
        get("models:/tiny/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(UsageError, match="reads no MLflow store at sqlite://"):
        get("models:/tiny/1")


@pytest.fixture
def tracking(site: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """A tracking server of one model, with the answers that `mlflow server` 3.17 has given."""
    api = "/api/2.0/mlflow"
    answers: dict[str, Any] = {
        f"{api}/model-versions/get-download-uri?name=tiny&version=1": {
            "artifact_uri": "mlflow-artifacts:/0/models/m-1/artifacts"
        },
        f"{api}/registered-models/alias?name=tiny&alias=prod": {"model_version": {"version": "1"}},
        f"{api}/model-versions/search?filter=name%3D%27tiny%27"
        "&order_by=version_number+DESC&max_results=1": {"model_versions": [{"version": "1"}]},
        f"{api}/runs/get?run_id=r1": {
            "run": {
                "info": {"artifact_uri": "mlflow-artifacts:/0/r1/artifacts"},
                "outputs": {"model_outputs": [{"model_id": "m-1", "step": 0}]},
            }
        },
        f"{api}/logged-models/m-1": {
            "model": {
                "info": {
                    "name": "model",
                    "artifact_uri": "mlflow-artifacts:/0/models/m-1/artifacts",
                }
            }
        },
    }
    files = "/api/2.0/mlflow-artifacts/artifacts"
    root = "0/models/m-1/artifacts"
    answers[f"{files}?path=0%2Fmodels%2Fm-1%2Fartifacts"] = {
        "files": [
            {"path": "MLmodel", "is_dir": False, "file_size": 40},
            {"path": "data", "is_dir": True},
        ]
    }
    answers[f"{files}?path=0%2Fmodels%2Fm-1%2Fartifacts%2Fdata"] = {
        "files": [{"path": "m.onnx", "is_dir": False, "file_size": 4}]
    }
    answers[f"{files}?path=0%2Fr1%2Fartifacts%2Flabels.txt"] = {}
    for path, answer in answers.items():
        site.put(path, json.dumps(answer).encode())
    site.put(f"{files}/{root}/MLmodel", b"flavors: {onnx: {data: data/m.onnx}}")
    site.put(f"{files}/{root}/data/m.onnx", b"onnx")
    site.put(f"{files}/0/r1/artifacts/labels.txt", b"a\nb\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", site.url + "/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    return site


_client = httpx.Client


@pytest.mark.parametrize(
    "url", ["models:/tiny/1", "models:/tiny@prod", "models:/tiny/latest", "runs:/r1/model"]
)
def test_a_model_of_a_server(tracking: FileServer, url: str) -> None:
    request, fetched = localized(ModelRequest("m", weights=url), no_progress)
    assert request.weights_path is not None
    assert request.weights_path.read_bytes() == b"onnx"
    copy = fetched["weights"].copy
    assert copy.resolved == "mlflow-artifacts:/0/models/m-1/artifacts"
    assert {names["authorization"] for _, names in tracking.requests} == {"Bearer secret"}
    assert "secret" not in str(fetched["weights"].to_json())


def test_nothing_is_asked_twice_and_one_client_asks(
    tracking: FileServer, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = list[httpx.Client]()

    def client(**how: Any) -> httpx.Client:
        clients.append(_client(**how))
        return clients[-1]

    monkeypatch.setattr(httpx, "Client", client)
    get("runs:/r1/model")
    asked = [path for path, _ in tracking.requests]
    assert len(asked) == len(set(asked)) == 6
    assert [client.is_closed for client in clients] == [True]


def test_files_of_a_server_need_that_server(
    tracking: FileServer, get: Get, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", tracking.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path))
    with pytest.raises(UsageError, match=f"and the tracking store is {tmp_path}"):
        get("models:/tiny/1")


@pytest.mark.parametrize("answer", [{}, {"artifact_uri": None}, {"artifact_uri": {}}])
def test_an_answer_without_what_was_asked_for_is_named(
    tracking: FileServer, get: Get, answer: Any
) -> None:
    path = "/api/2.0/mlflow/model-versions/get-download-uri?name=tiny&version=1"
    tracking.put(path, json.dumps(answer).encode())
    with pytest.raises(ExportError, match="the MLflow server's answer has no artifact_uri"):
        get("models:/tiny/1")


def test_an_artifact_of_a_run_on_a_server(
    tracking: FileServer, get: Get, arrived: list[str]
) -> None:
    assert get("runs:/r1/labels.txt").copy.path.read_bytes() == b"a\nb\n"
    get("runs:/r1/labels.txt")
    assert len(arrived) == 2  # the server tells no revision of it


def test_what_a_server_does_not_have(tracking: FileServer, get: Get) -> None:
    with pytest.raises(NotFound, match="the MLflow server says: HTTP 404"):
        get("models:/tiny/9")
    listing = "/api/2.0/mlflow-artifacts/artifacts?path=0%2Fmodels%2Fm-1%2Fartifacts"
    tracking.put(listing, b'{"files": [{"path": "../../evil", "is_dir": false}]}')
    with pytest.raises(ExportError, match="outside its folder"):
        get("models:/tiny/1")
    tracking.put(listing, b"<html>")
    with pytest.raises(ExportError, match="does not answer as an MLflow server: '<html>'"):
        get("models:/tiny@prod")


@pytest.mark.parametrize(
    ("described", "files", "expected"),
    [
        ("sklearn: {pickled_model: model.pkl}", ["model.pkl"], "model.pkl"),
        ("sklearn: {pickled_model: model.skops}", ["model.skops"], "model.skops"),
        ("onnx: {data: model.onnx}", ["model.onnx"], "model.onnx"),
        ("keras: {data: data}", ["data/model.keras"], "data/model.keras"),
        ("tensorflow: {saved_model_dir: tf}", ["tf/saved_model.pb"], "tf"),
        ("tensorflow: {data: data}", ["data/model.keras"], "data/model.keras"),
        ("pytorch: {model_data: data}", ["data/model.pt2"], "data/model.pt2"),
    ],
)
def test_the_flavor_says_which_file_is_the_model(
    tmp_path: Path, described: str, files: list[str], expected: str
) -> None:
    (tmp_path / "MLmodel").write_text(f"flavors: {{python_function: {{}}, {described}}}")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert model_in(tmp_path) == tmp_path / expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flavors: {pytorch: {model_data: data}}", "a pickled module, which only its own code"),
        ("flavors: {xgboost: {data: model.ubj}}", "cannot open an MLflow model of xgboost"),
        ("flavors: {python_function: {}}", "opens no MLflow model of the flavors python_function"),
        ("flavors: {onnx: {data: model.onnx}}", "says that the model is model.onnx, and it is not"),
        ("flavors: {onnx: {data: ../../x}}", "outside its folder"),
        ("flavors: []", "lists no flavors"),
        ("[", "is not valid YAML"),
        ("- a", "it holds no mapping"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_the_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises((ExportError, UsageError), match=message):
        model_in(tmp_path)
