"""Served estimators over both protocols and transports, on both backends; wrong requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlserve.client.endpoint import Api
from mlserve.export import export
from mlserve.sources import ModelRequest
from mlserve.testing.processes import ServerProcess, launched

pytestmark = [pytest.mark.framework, pytest.mark.server]
HOMES = pd.DataFrame(
    {"city": ["Bern", "Köln", "Wien", "Bern"], "size": [30.5, 41.0, 62.25, 28.0]}, dtype=object
).astype({"size": float})
CHEAP = ["yes", "no", "no", "yes"]


@pytest.fixture(scope="module")
def forest() -> Any:
    columns = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
    return make_pipeline(columns, RandomForestClassifier(5, random_state=0)).fit(HOMES, CHEAP)


@pytest.fixture(scope="module", params=["sklearn", "onnxruntime"])
def server(
    request: pytest.FixtureRequest, forest: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    skops.io.dump(forest, folder / "homes.skops")
    wanted = ModelRequest("homes", str(folder / "homes.skops"))
    artifact = export(wanted, request.param, store=folder / "store")
    with launched(request.param, artifact, "--threads", "2") as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("api", ["tfs", "oip"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_every_protocol_gives_the_answers_of_the_estimator(
    protocol: str, api: Api, server: ServerProcess, forest: Any
) -> None:
    columns = {"city": HOMES.city.tolist(), "size": HOMES["size"].to_numpy()}
    with server.client(protocol, api) as client:
        outputs = client.infer(columns, timeout=20)
    assert [label.decode() for label in outputs["label"]] == CHEAP
    assert outputs["probabilities"] == pytest.approx(forest.predict_proba(HOMES), abs=1e-4)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"city": ["Bern"]}, "Missing named input: size"),
        ({"city": ["Bern"], "sise": [30]}, "sise"),
        ({"city": ["Bern"], "size": ["large"]}, "'size' has a string where float64 is expected"),
        ({"city": [7], "size": [30]}, "input 'city'"),
        ({"city": ["Bern"], "size": [[30, 31]]}, "size"),
        ({"city": ["Bern", "Bern"], "size": [30]}, "'city' has 2, "),
    ],
)
def test_wrong_columns_are_refused_and_the_server_lives_on(
    inputs: dict[str, Any], words: str, server: ServerProcess
) -> None:
    url = f"http://{server.rest}/v1/models/homes:predict"
    answer = httpx.post(url, json={"inputs": inputs})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    right = httpx.post(url, json={"inputs": {"city": ["Bern"], "size": [30.5]}})
    assert right.json()["outputs"]["label"] == ["yes"]


def test_the_server_loads_no_pytorch(server: ServerProcess) -> None:
    libraries = [Path(one.path).parts for one in psutil.Process(server.process.pid).memory_maps()]
    assert any("numpy" in parts for parts in libraries)
    assert not any("torch" in parts for parts in libraries)
