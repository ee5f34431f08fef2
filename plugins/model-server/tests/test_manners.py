"""`mlserve-model-server` where TensorFlow Serving has no limit, other headers, or another state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mlserve.testing.processes import wait_until
from mlserve.wire.proto.model_config_pb2 import ModelServerConfig
from mlserve.wire.proto.serving_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
)

pytestmark = pytest.mark.server
MIB_65 = 65 * 2**20
ORIGIN = {"Origin": "https://example.com"}


@pytest.fixture
def ask() -> Callable[..., Any]:
    """`ask(server, "PredictionService/Predict", request, kind)`: the response of that kind."""

    def ask(server: Any, method: str, request: Any, kind: Any) -> Any:
        options = (("grpc.max_send_message_length", -1),)
        with grpc.insecure_channel(server.grpc, options) as channel:
            call = channel.unary_unary(
                f"/tensorflow.serving.{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=kind.FromString,
            )
            return call(request, timeout=60)

    return ask


def predict_of(*images: bytes) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "default"
    tensor = request.inputs["image"]
    tensor.dtype = "DT_STRING"  # type: ignore[assignment]
    tensor.tensor_shape.dim.add(size=len(images))
    tensor.string_val.extend(images)
    return request


def test_there_is_no_limit_of_rows_and_messages_may_have_2_gib(
    launch: Any, put: Any, ask: Any, tmp_path: Path
) -> None:
    put("m/1")
    server = launch(f"--model_base_path={tmp_path / 'm'}")
    wait_until(server.is_ready)
    answer = ask(server, "PredictionService/Predict", predict_of(*[b"x"] * 1025), PredictResponse)
    assert len(answer.outputs["output_0"].string_val) == 1025
    answer = ask(server, "PredictionService/Predict", predict_of(bytes(MIB_65)), PredictResponse)
    assert answer.outputs["output_0"].string_val[0] == b"m/1"
    assert len(server.post("default", {"instances": ["x"] * 1025}).json()["predictions"]) == 1025
    large = httpx.post(
        f"http://{server.rest}/v1/models/default:predict",
        content=b'{"inputs": ["' + b"x" * MIB_65 + b'"]}',
        timeout=60,
    )
    assert large.json() == {"outputs": ["m/1"]}


@pytest.mark.parametrize("spelled", ["--max_batch_length=4", "--max-batch-length=4"])
def test_a_limit_that_is_asked_for_has_its_flag_here(
    launch: Any, put: Any, tmp_path: Path, spelled: str
) -> None:
    put("m/1")
    server = launch(
        f"--model_base_path={tmp_path / 'm'}", spelled, "--max_request_bytes=1000", "--max_pixels=5"
    )
    wait_until(server.is_ready)
    assert server.post("default", {"instances": ["x"] * 4}).status_code == 200
    for body, flag in (
        ({"instances": ["x"] * 5}, "--max-batch-length"),
        ({"instances": ["x" * 1000]}, "--max-request-bytes"),
    ):
        refused = server.post("default", body)
        assert refused.status_code == 413
        assert flag in refused.json()["error"]
    assert "max_batch_length=4 " in server.log()


def test_a_wrong_value_of_such_a_flag_ends_with_the_usage(tmp_path: Path, capsys: Any) -> None:
    from mlserve_model_server.command import run
    from mlserve_tfserving.backend import TFServingBackend

    assert run(["--model_base_path=/m", "--log_format=yaml"], TFServingBackend()) == 255
    assert capsys.readouterr().out.startswith("'yaml' is not a valid value of --log-format\n")


def test_a_preflight_of_a_browser(launch: Any, put: Any, tmp_path: Path) -> None:
    put("m/1")
    server = launch(f"--model_base_path={tmp_path / 'm'}", "--rest_api_enable_cors_support")
    wait_until(server.is_ready)
    url = f"http://{server.rest}/v1/models/default:predict"
    for answer in (
        httpx.options(url, headers=ORIGIN),
        httpx.post(url, headers=ORIGIN, json={"inputs": ["x"]}),
        httpx.post(url, headers=ORIGIN, json={}),
    ):
        told = {key: value for key, value in answer.headers.items() if key.startswith("access-")}
        assert told == {
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "POST, GET",
            "access-control-allow-headers": "Content-Type",
        }
    assert httpx.options(url, headers=ORIGIN).status_code == 200


def test_no_page_may_ask_where_nobody_said_so(launch: Any, put: Any, tmp_path: Path) -> None:
    put("m/1")
    server = launch(f"--model_base_path={tmp_path / 'm'}")
    wait_until(server.is_ready)
    answer = httpx.options(f"http://{server.rest}/v1/models/default:predict", headers=ORIGIN)
    assert answer.status_code == 200
    assert [key for key in answer.headers if key.startswith("access-")] == []
    assert httpx.options(f"http://{server.rest}/v1/models/default:predict").status_code == 405


def test_a_model_that_a_reload_removed_is_at_its_end(
    launch: Any, put: Any, ask: Any, tmp_path: Path
) -> None:
    put("a/1")
    put("b/2")
    server = launch(f"--model_base_path={tmp_path / 'a'}", "--model_name=a", "--model_control=on")
    wait_until(server.is_ready)

    def states(model: str) -> list[tuple[int, int]]:
        request = GetModelStatusRequest()
        request.model_spec.name = model
        answer = ask(server, "ModelService/GetModelStatus", request, GetModelStatusResponse)
        return [(one.version, one.state) for one in answer.model_version_status]

    def serve(model: str) -> None:
        request = ReloadConfigRequest(config=ModelServerConfig())
        request.config.model_config_list.config.add(
            name=model, base_path=str(tmp_path / model), model_platform="tensorflow"
        )
        ask(server, "ModelService/HandleReloadConfigRequest", request, ReloadConfigResponse)

    serve("b")
    wait_until(lambda: states("a") == [(1, 50)])
    assert states("b") == [(2, 30)]
    shown = server.get("v1/models/a").json()["model_version_status"]
    assert [(one["version"], one["state"]) for one in shown] == [("1", "END")]
    assert server.post("a", {"inputs": ["x"]}).json() == {
        "error": "Servable not found for request: Latest(a)"
    }
    serve("a")
    assert states("a") == [(1, 30)]
