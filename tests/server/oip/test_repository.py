"""The model repository extension, through Triton's own clients: index, load, unload."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server
BOTH = pytest.mark.parametrize("protocol", ["http", "grpc"])
IMAGE = np.array([b"x"], object)


def index(client: Any, protocol: str) -> list[tuple[str, str, str, str]]:
    """Name, version, state and reason of each entry."""
    if protocol == "http":
        found = client.get_model_repository_index()
    else:
        found = client.get_model_repository_index(as_json=True).get("models", [])
    keys = ("name", "version", "state", "reason")
    return [tuple(entry.get(key, "") for key in keys) for entry in found]


def label(client: Any) -> bytes:
    answer = client.infer("m", [client.tensor("image", IMAGE)])
    found: bytes = answer.as_numpy("output_0")[0]
    return found


def health(server: Any) -> Any:
    with grpc.insecure_channel(server.grpc) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status


@BOTH
def test_unloaded_is_unloaded_everywhere_until_it_is_loaded(
    model: Any, start: Any, triton_to: Any, protocol: str
) -> None:
    model.put(1, label="one")
    server = start()
    client = triton_to(server, protocol)
    assert index(client, protocol) == [("m", "1", "READY", "")]
    assert label(client) == b"one"

    client.unload_model("m")
    assert index(client, protocol) == [("m", "1", "UNAVAILABLE", "unloaded")]
    assert model.runs()[-1] == "close"
    assert server.state(1) == "END"
    assert not client.is_model_ready("m")
    assert not client.is_server_ready()
    assert health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
    page = httpx.get(f"http://{server.rest}/metrics").text
    assert "mlserve_ready 0.0" in page
    assert "mlserve_model_version{" not in page
    with pytest.raises(InferenceServerException, match="m was unloaded") as refused:
        label(client)
    assert refused.value.status() in ("503", "StatusCode.UNAVAILABLE")
    refused_too = server.post({"inputs": ["x"]})
    assert (refused_too.status_code, "m was unloaded" in refused_too.text) == (503, True)
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match="m was unloaded"):
            ask("m")

    client.load_model("m")
    assert index(client, protocol) == [("m", "1", "READY", "")]
    assert client.is_model_ready("m")
    assert client.is_server_ready()
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    assert label(client) == b"one"


@BOTH
def test_an_unloaded_model_stays_so_when_its_folder_is_looked_at(
    model: Any, start: Any, triton_to: Any, protocol: str
) -> None:
    """The next poll would load the new version; load does."""
    model.put(1, label="one")
    server = start("--poll-seconds", "0.01")
    client = triton_to(server, protocol)
    client.unload_model("m")
    model.put(2, label="two")
    looked = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > looked)  # thirty polls; there is no event to wait for
    assert server.state(2) == ""
    assert index(client, protocol) == [("m", "1", "UNAVAILABLE", "unloaded")]
    client.load_model("m")
    assert label(client) == b"two"
    assert server.state(1) == "END"


def test_load_looks_for_new_versions_at_once(model: Any, start: Any, triton_to: Any) -> None:
    model.put(1, label="one")
    server = start("--poll-seconds", "0")
    client = triton_to(server, "http")
    model.put(2, label="two")
    assert label(client) == b"one"
    client.load_model("m")
    assert label(client) == b"two"


@BOTH
def test_a_version_that_cannot_be_loaded_is_an_error_and_the_old_one_serves_on(
    model: Any, start: Any, triton_to: Any, protocol: str
) -> None:
    model.put(1, label="one")
    server = start("--poll-seconds", "0")
    client = triton_to(server, protocol)
    model.put(2, fail_load="no weights in it")
    with pytest.raises(InferenceServerException, match="no weights in it"):
        client.load_model("m")
    assert label(client) == b"one"
    assert index(client, protocol)[-1] == ("m", "2", "UNAVAILABLE", "no weights in it")


def test_requests_that_run_are_answered_before_the_model_goes(
    model: Any, start: Any, triton_to: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1)
    server = start("--threads", "1")
    model.journal.write_text("")
    seconds = np.array([0.7], np.float32)
    slow = predict_on(server, request_of("slow", seconds=(seconds, DType.FLOAT32)))
    wait_until(lambda: model.runs() == ["slow"])
    triton_to(server, "http").unload_model("m")
    assert model.runs() == ["slow", "close"]
    assert list(slow.result().outputs["done"].float_val) == pytest.approx([0.7])


def test_an_unload_that_outlasts_its_deadline_goes_on(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1)
    server = start("--threads", "1")
    model.journal.write_text("")
    seconds = np.array([60.0], np.float32)
    slow = predict_on(server, request_of("slow", seconds=(seconds, DType.FLOAT32)))
    wait_until(lambda: model.runs() == ["slow"])
    url = f"http://{server.rest}/v2/repository/models/m/unload"
    answer = httpx.post(url, headers={"X-Request-Timeout-Ms": "100"})
    assert (answer.status_code, "m finishes its last requests" in answer.text) == (504, True)
    model.release()
    assert slow.result()
    wait_until(lambda: model.runs() == ["slow", "close"])
    wait_until(lambda: server.state(1) == "END")


@BOTH
def test_what_cannot_be_loaded_is_named(server: Any, triton_to: Any, protocol: str) -> None:
    client = triton_to(server, protocol)
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match=r"model other; this server has 'm'"):
            change("other")
    with pytest.raises(InferenceServerException, match="'config' is not supported"):
        client.load_model("m", config="{}")
    assert client.is_model_ready("m")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("index", b'{"ready": true}', 200),
        ("index", b"", 200),
        ("index", b'{"ready": 1}', 400),
        ("index", b"[]", 400),
        ("index", b"{", 400),
        ("index", b" " * 70_000, 413),
        ("models/m/load", b'{"parameters": 1}', 400),
        ("models/m/load", b'{"parameters": {"file:1/model.onnx": "AAAA"}}', 400),
        ("other/index", b"", 404),
        ("other/models/m/unload", b"", 404),
        ("models/m/remove", b"", 404),
    ],
)
def test_bodies_and_paths(http: httpx.Client, path: str, body: bytes, status: int) -> None:
    answer = http.post(f"/v2/repository/{path}", content=body)
    assert answer.status_code == status, answer.text
    assert ("error" in answer.json()) == (status != 200)


def test_the_index_of_what_is_ready(model: Any, start: Any) -> None:
    model.put(1)
    model.put(2, fail_load="broken")
    server = start("--all-versions")
    wait_until(lambda: server.state(2) == "END")
    url = f"http://{server.rest}/v2/repository/index"
    assert [entry["version"] for entry in httpx.post(url).json()] == ["1", "2"]
    ready = httpx.post(url, json={"ready": True}).json()
    assert ready == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]


@BOTH
@pytest.mark.parametrize("flags", [("--host", "0.0.0.0"), ("--model-control", "off")])
def test_strangers_unload_nothing(
    model: Any, start: Any, triton_to: Any, protocol: str, flags: tuple[str, ...]
) -> None:
    model.put(1)
    server = start(*flags)
    client = triton_to(server, protocol)
    for change in (client.load_model, client.unload_model):
        with pytest.raises(
            InferenceServerException, match="does not let anyone load or"
        ) as refused:
            change("m")
        assert refused.value.status() in ("403", "StatusCode.PERMISSION_DENIED")
    assert client.is_model_ready("m")
    assert index(client, protocol) == [("m", "1", "READY", "")]


def test_on_another_host_it_takes_a_token_or_the_owner_s_word(model: Any, start: Any) -> None:
    model.put(1)
    asked = start("--host", "0.0.0.0", "--model-control", "on")
    assert httpx.post(f"http://{asked.rest}/v2/repository/models/m/load").status_code == 200
    assert "anyone may unload its models: see --model-control" in asked.log()


def test_with_a_token_it_may_be_any_host(model: Any, launch: Any, tmp_path: Path) -> None:
    model.put(1)
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    server = launch("--host", "0.0.0.0", "--token-file", str(token))
    server.wait_listening()
    url = f"http://{server.rest}/v2"
    wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
    owner = {"Authorization": "Bearer secret"}
    unload = f"{url}/repository/models/m/unload"
    assert httpx.post(unload).status_code == 401
    assert httpx.post(unload, headers={**owner, "Origin": "http://a.page"}).status_code == 200
    assert httpx.get(f"{url}/health/ready").status_code == 503


def test_a_page_in_a_browser_unloads_nothing(http: httpx.Client) -> None:
    headers = {"Origin": "http://a.page", "Content-Type": "text/plain"}
    for verb in ("load", "unload"):
        answer = http.post(f"/v2/repository/models/m/{verb}", headers=headers, content=b"{}")
        assert (answer.status_code, "a page in a browser" in answer.text) == (403, True)
    assert http.post("/v2/repository/index", headers=headers).status_code == 200


def test_a_failed_version_of_an_unloaded_model_is_not_tried_over_and_over(
    model: Any, start: Any, triton_to: Any
) -> None:
    model.put(1)
    server = start("--poll-seconds", "0.01")
    model.put(2, fail_load="broken")
    wait_until(lambda: server.state(2) == "END")
    client = triton_to(server, "http")
    client.unload_model("m")
    before = server.log().count("loading version")
    looked = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > looked)
    assert server.log().count("loading version") == before
    assert [entry[2] for entry in index(client, "http")] == ["UNAVAILABLE"] * 2
