"""A version that is asked by function calls answers as the server's REST API does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import InferenceFailed, InvalidInput, ModelLoadFailed, NotFound
from mlserve.load_options import DEFAULT_LOAD_OPTIONS
from mlserve.server.oip.direct import DirectModel
from mlserve.settings import DEFAULT_SETTINGS
from tests.harness.echo import PHOTO, manifest, put_version

Load = Callable[..., DirectModel]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(**config: Any) -> DirectModel:
        put_version(tmp_path / "3", manifest=manifest(has_random_weights=True), **config)
        options, settings = DEFAULT_LOAD_OPTIONS, DEFAULT_SETTINGS
        return DirectModel("echo", "m", tmp_path, 3, options, settings)

    return load


def request(image: bytes, **members: Any) -> bytes:
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor], **members}).encode()


def test_a_request_in_json(load: Load) -> None:
    head, tail = load().infer(request(PHOTO, parameters={"signature": "top_k"}), {})
    answer = json.loads(head)
    assert tail is None
    assert (answer["model_name"], answer["model_version"]) == ("m", "3")
    by_name = {output["name"]: output for output in answer["outputs"]}
    assert by_name["labels"]["data"][0] == "sorrel"
    assert set(by_name) == {"labels", "scores", "indices"}


def test_an_image_file(load: Load) -> None:
    head, _ = load().infer(PHOTO, {"content-type": "image/jpeg"})
    [output] = json.loads(head)["outputs"]
    assert (output["name"], output["data"]) == ("output_0", ["sorrel"])


def test_binary_tensors_follow_the_json(load: Load) -> None:
    tensor = {
        "name": "x",
        "shape": [2],
        "datatype": "INT16",
        "parameters": {"binary_data_size": 4},
    }
    asked = {"signature": "identity_int16", "binary_data_output": True}
    body = json.dumps({"parameters": asked, "inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(body))}
    head, tail = load().infer(body + b"\1\0\2\0", headers)
    assert json.loads(head)["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert tail == b"\1\0\2\0"


def test_its_metadata_has_the_headers_of_the_server(load: Load) -> None:
    described = json.loads(load().metadata(("3", "2"), ""))
    assert (described["name"], described["versions"]) == ("m", ["3", "2"])
    assert described["platform"] == "mlserve_echo"
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    parameters = described["parameters"]
    assert {"ranking", "serving_default", "top_k"} <= set(parameters["signatures"])
    assert parameters["mlserve-headers"]["x-mlserve-model-version"] == "3"
    assert parameters["mlserve-headers"]["x-mlserve-random-weights"] == "1"
    assert "pipeline" in json.loads(parameters["mlserve-headers"]["x-mlserve-contract"])


def test_what_is_wrong_with_a_request(load: Load) -> None:
    model = load()
    with pytest.raises(InvalidInput, match="'inputs' must be a list"):
        model.infer(b"{}", {})
    with pytest.raises(InvalidInput, match=r"not valid|JSON"):
        model.infer(b"{", {})
    with pytest.raises(NotFound, match="nope"):
        model.infer(request(PHOTO, parameters={"signature": "nope"}), {})
    with pytest.raises(NotFound, match="nope"):
        model.metadata(("3",), "nope")


def test_a_model_that_fails(load: Load) -> None:
    with pytest.raises(ModelLoadFailed, match="no such model"):
        load(fail_load="no such model")


def test_an_unexpected_failure_tells_nothing_of_the_models_code(load: Load) -> None:
    body = {
        "parameters": {"signature": "crash"},
        "inputs": [{"name": "seconds", "shape": [1], "datatype": "FP32", "data": [1]}],
    }
    with pytest.raises(InferenceFailed, match="internal error") as failure:
        load().infer(json.dumps(body).encode(), {})
    assert failure.value.__cause__ is None
