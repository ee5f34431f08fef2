"""Served estimators over both protocols and transports, on both backends; wrong requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlserve.export import export
from mlserve.sources import ModelRequest
from mlserve.tensors import DType
from mlserve.testing.processes import ServerProcess, launched
from mlserve.testing.questions import predict_method
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest
from mlserve.wire.services import INFERENCE, method_path

pytestmark = pytest.mark.server
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


def _tfs_rest(server: ServerProcess) -> tuple[list[str], Any]:
    instances = HOMES.to_dict("records")
    url = f"http://{server.rest}/v1/models/homes:predict"
    rows = httpx.post(url, json={"instances": instances}).json()["predictions"]
    return [row["label"] for row in rows], [row["probabilities"] for row in rows]


def _oip_rest(server: ServerProcess) -> tuple[list[str], Any]:
    inputs = [
        {"name": "city", "datatype": "BYTES", "shape": [4], "data": HOMES.city.tolist()},
        {"name": "size", "datatype": "FP64", "shape": [4], "data": HOMES["size"].tolist()},
    ]
    url = f"http://{server.rest}/v2/models/homes/infer"
    label, probabilities = httpx.post(url, json={"inputs": inputs}).json()["outputs"]
    return label["data"], np.reshape(probabilities["data"], probabilities["shape"])


def _tfs_grpc(server: ServerProcess) -> tuple[list[str], Any]:
    request = PredictRequest()
    request.model_spec.name = "homes"
    for name, dtype in (("city", DType.BYTES), ("size", DType.FLOAT64)):
        request.inputs[name].dtype = dtype.tf_number  # type: ignore[assignment]
        request.inputs[name].tensor_shape.dim.add(size=4)
    request.inputs["city"].string_val.extend(text.encode() for text in HOMES.city)
    request.inputs["size"].tensor_content = HOMES["size"].to_numpy().tobytes()
    with grpc.insecure_channel(server.grpc) as channel:
        outputs = predict_method(channel)(request, timeout=20).outputs
    scores = np.array(outputs["probabilities"].double_val)
    labels = [label.decode() for label in outputs["label"].string_val]
    return labels, scores.reshape(4, 2)


def _oip_grpc(server: ServerProcess) -> tuple[list[str], Any]:
    request = ModelInferRequest(model_name="homes")
    city = request.inputs.add(name="city", datatype="BYTES", shape=[4])
    city.contents.bytes_contents.extend(text.encode() for text in HOMES.city)
    size = request.inputs.add(name="size", datatype="FP64", shape=[4])
    size.contents.fp64_contents.extend(HOMES["size"])
    with grpc.insecure_channel(server.grpc) as channel:
        infer: grpc.UnaryUnaryMultiCallable[ModelInferRequest, ModelInferResponse]
        infer = channel.unary_unary(
            method_path(INFERENCE, "ModelInfer"),
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        answer = infer(request, timeout=20)
    label, probabilities = answer.outputs
    if answer.raw_output_contents:
        scores = np.frombuffer(answer.raw_output_contents[1], dtype=np.float64)
    else:
        scores = np.array(probabilities.contents.fp64_contents)
    return [text.decode() for text in label.contents.bytes_contents], scores.reshape(4, 2)


@pytest.mark.parametrize("ask", [_tfs_rest, _oip_rest, _tfs_grpc, _oip_grpc])
def test_every_protocol_gives_the_answers_of_the_estimator(
    ask: Any, server: ServerProcess, forest: Any
) -> None:
    labels, scores = ask(server)
    assert labels == CHEAP
    assert np.asarray(scores) == pytest.approx(forest.predict_proba(HOMES), abs=1e-4)


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
    assert _tfs_rest(server)[0] == CHEAP
