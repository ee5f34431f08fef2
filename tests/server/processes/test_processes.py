"""A server whose model runs in processes of its own answers as one without, and outlives them."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest

from mlserve.client import Client
from mlserve.errors import DeadlineExceeded, Unavailable
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer, EchoServers, serving

pytestmark = pytest.mark.server

PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
INFER_PATH = "/v2/models/m/infer"
PREDICT_PATH = "/v1/models/m:predict"
LARGE = 5 * 2**20
"""Numbers of four bytes in a request of 20 MB."""


LONG = ("--max-batch-length", str(LARGE))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    with serving(tmp_path_factory.mktemp("here"), "--processes", "1", *LONG) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    with serving(tmp_path_factory.mktemp("processes"), "--processes", "2", *LONG) as server:
        yield server


@pytest.fixture
def journal(server: EchoServer) -> Callable[[], list[str]]:
    """Returns what has been run since the test began."""
    path = server.log_path.with_name("journal")
    before = len(path.read_text().splitlines())
    return lambda: path.read_text().splitlines()[before:]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EchoServers]:
    with ExitStack() as stack:
        yield EchoServers(tmp_path, stack)


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def pids(server: EchoServer) -> list[int]:
    """Return the ids of the processes that run the model, as the server tells them."""
    parameters = httpx.get(f"http://{server.rest}/v2").json()["parameters"]
    return [pid for version in parameters.get("processes", ()) for pid in version["pids"]]


def slow(server: EchoServer, seconds: float, timeout: float = 20) -> httpx.Response:
    body = {"signature_name": "slow", "inputs": {"seconds": [seconds]}}
    headers = {"X-Request-Timeout-Ms": str(round(timeout * 1000))}
    return httpx.post(f"http://{server.rest}{PREDICT_PATH}", json=body, headers=headers, timeout=30)


CLASSES = json.dumps(
    {
        "id": "7",
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["photo"]}],
        "outputs": [{"name": "labels", "parameters": {"classification": 2}}],
        "parameters": {"signature": "top_k"},
    }
)
SUM = json.dumps(
    {
        "inputs": [
            {
                "name": "a",
                "shape": [2],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 8},
            }
        ],
        "parameters": {"signature": "lenient", "binary_data_output": True},
    }
)
REST = {
    "rows": (PREDICT_PATH, b'{"instances": ["/9j/", "/9j/"]}', {}),
    "columns": (PREDICT_PATH, b'{"signature_name": "two", "inputs": {"a": [1.5], "b": [2]}}', {}),
    "scores": (PREDICT_PATH, b'{"signature_name": "top_k", "instances": ["/9j/"]}', {}),
    "an image file": (PREDICT_PATH, b"\xff\xd8\xff a photo", {"Content-Type": "image/jpeg"}),
    "a bad image": (PREDICT_PATH, b'{"instances": ["x", "bad"]}', {}),
    "an error that cannot be pickled": (PREDICT_PATH, b'{"instances": ["odd"]}', {}),
    "bad JSON": (PREDICT_PATH, b'{"instances": [', {}),
    "an unknown signature": (PREDICT_PATH, b'{"signature_name": "x", "instances": [1]}', {}),
    "an internal error": (
        PREDICT_PATH,
        b'{"signature_name": "crash", "instances": [1]}',
        {},
    ),
    "a panic": (PREDICT_PATH, b'{"signature_name": "fragile", "instances": [-101.0]}', {}),
    "too deep": (PREDICT_PATH, b"[" * 1000, {}),
    "examples": ("/v1/models/m:classify", b'{"examples": [{"x": 1}]}', {}),
    "oip": (INFER_PATH, CLASSES.encode(), {}),
    "oip binary": (
        INFER_PATH,
        SUM.encode() + struct.pack("<2f", 1, 2),
        {"Inference-Header-Content-Length": str(len(SUM))},
    ),
    "oip raw": (INFER_PATH, b"\xff\xd8\xff photo", {"Inference-Header-Content-Length": "0"}),
    "oip without an input": (INFER_PATH, b'{"inputs": []}', {}),
}


@pytest.mark.parametrize(("path", "body", "headers"), REST.values(), ids=REST)
def test_rest_is_answered_alike(
    here: EchoServer, server: EchoServer, path: str, body: bytes, headers: dict[str, str]
) -> None:
    first, second = (
        httpx.post(f"http://{each.rest}{path}", content=body, headers=headers)
        for each in (here, server)
    )
    assert (second.status_code, second.content) == (first.status_code, first.content)
    told = ("content-type", "mlserve-model-version", "inference-header-content-length")
    assert [second.headers.get(name) for name in told] == [first.headers.get(n) for n in told]


GRPC = {
    "tfs": (PREDICT, "serving_default", b"photo"),
    "tfs scores": (PREDICT, "top_k", b"photo"),
    "tfs bad": (PREDICT, "serving_default", b"bad"),
    "oip": (INFER, "serving_default", b"photo"),
    "oip bad": (INFER, "serving_default", b"bad"),
    "oip unknown": (INFER, "x", b"photo"),
}


@pytest.mark.parametrize(("method", "signature", "image"), GRPC.values(), ids=GRPC)
def test_grpc_is_answered_alike(
    here: EchoServer, server: EchoServer, method: str, signature: str, image: bytes
) -> None:
    first, second = (_ask(each, method, signature, image) for each in (here, server))
    assert second == first


def _ask(server: EchoServer, method: str, signature: str, image: bytes) -> object:
    with grpc.insecure_channel(server.grpc) as channel:
        ask = channel.unary_unary(method)
        try:
            answer = ask(_message(method, signature, image), timeout=20)
        except grpc.RpcError as error:
            return error.code(), error.details()
        kind = PredictResponse if method == PREDICT else ModelInferResponse
        return kind.FromString(answer)


def _message(method: str, signature: str, image: bytes) -> bytes:
    if method == PREDICT:
        predict = PredictRequest()
        predict.model_spec.name, predict.model_spec.signature_name = "m", signature
        tensor = predict.inputs["image"]
        tensor.dtype = 7
        tensor.tensor_shape.dim.add(size=1)
        tensor.string_val.append(image)
        return predict.SerializeToString()
    infer = ModelInferRequest(model_name="m")
    infer.parameters["signature"].string_param = signature
    infer.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        image
    )
    return infer.SerializeToString()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_20_megabytes_come_and_go(server: EchoServer, protocol: str) -> None:
    numbers = np.arange(LARGE, dtype=np.float32)
    with Client(server.endpoint(protocol), model="m", api="oip") as client:
        sum_ = client.infer({"a": numbers}, signature="lenient", timeout=30)["sum"]
    assert np.array_equal(sum_, numbers + 100)


def test_what_is_large_is_counted_while_it_is_read(tmp_path: Path) -> None:
    # 4 MB of JSON numbers need more than 8 MB to be read, and no call may have that much.
    flags = (
        *LONG,
        "--processes",
        "2",
        "--max-request-bytes",
        "5000000",
        "--max-body-memory",
        "6000000",
    )
    text = json.dumps({"signature_name": "lenient", "inputs": {"a": [0.125] * 600_000}})
    with serving(tmp_path, *flags) as server:
        answer = httpx.post(f"http://{server.rest}{PREDICT_PATH}", content=text, timeout=30)
        assert "--max-body-memory" in answer.text
        assert server.answers()
    assert "Traceback" not in server.log()


def test_a_deadline_says_what_was_going_on(server: EchoServer) -> None:
    answer = slow(server, 2, timeout=1)
    assert answer.status_code == 504
    assert "while running the model" in answer.json()["error"]
    wait_until(lambda: httpx.get(f"http://{server.rest}/v2").json()["parameters"]["running"] == 0)


def test_a_deadline_in_the_request_itself_counts(server: EchoServer) -> None:
    # So long that the JSON is read in the process, which tells the server of the deadline.
    tensor = {"name": "seconds", "shape": [9000], "datatype": "FP32", "data": [1.0] * 9000}
    parameters = {"signature": "slow", "timeout": 300_000}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}) + " " * 2**16
    answer = httpx.post(f"http://{server.rest}{INFER_PATH}", content=body, timeout=30)
    assert answer.status_code == 504
    assert "within 0.3 s" in answer.json()["error"]


def test_who_has_left_is_not_run(
    server: EchoServer, background: ThreadPoolExecutor, journal: Callable[[], list[str]]
) -> None:
    busy = [background.submit(slow, server, 2) for _ in range(2)]
    wait_until(lambda: journal().count("slow") == 2)
    host, port = server.rest.split(":")
    body = b'{"signature_name": "top_k", "instances": ["photo"]}'
    with socket.create_connection((host, int(port))) as client:
        head = f"POST {PREDICT_PATH} HTTP/1.1\r\nHost: m\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        wait_until(
            lambda: httpx.get(f"http://{server.rest}/v2").json()["parameters"]["waiting"] == 1
        )
    assert [future.result().status_code for future in busy] == [200, 200]
    assert server.answers()
    assert "top_k" not in journal()


def test_a_process_that_is_killed_costs_no_answer(
    server: EchoServer, background: ThreadPoolExecutor, journal: Callable[[], list[str]]
) -> None:
    before = pids(server)
    answer = background.submit(slow, server, 1)
    wait_until(lambda: journal() == ["slow"])
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert answer.result().status_code == 200
    assert journal().count("slow") == 2
    wait_until(lambda: len(pids(server)) == 2 and not set(pids(server)) & set(before))
    told = [line for line in server.log().splitlines() if "signal 9, SIGKILL" in line]
    assert told
    assert not [line for line in told if "request_id" in line]  # it may not be this request's
    with Client(f"http://{server.rest}", model="m") as client:
        load = client.load()
    assert load is not None
    (version,) = load.processes
    assert version.restarts >= 2
    text = httpx.get(f"http://{server.rest}/metrics").text
    assert f'mlserve_process_restarts_total{{model="m",version="7"}} {version.restarts}' in text
    assert all(f'pid="{pid}"' in text for pid in pids(server))


def test_a_call_that_ends_every_process_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, "--processes", "2") as server:
        answer = server.post({"instances": ["deadly"]})
        assert answer.status_code == 503
        assert "as another one did before" in answer.json()["error"]
        wait_until(lambda: len(pids(server)) == 2)
        assert server.answers()


def test_a_death_is_noticed_though_a_fork_of_the_process_lives_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--processes", "2") as server:
        soon = {"X-Request-Timeout-Ms": "10000"}
        answer = server.post({"instances": ["deadly fork"]}, headers=soon)
        assert answer.status_code == 503
        assert "as another one did before" in answer.json()["error"]


def test_it_drains(tmp_path: Path, background: ThreadPoolExecutor) -> None:
    with serving(tmp_path, "--processes", "2") as server:
        path, children = tmp_path / "journal", pids(server)
        answer = background.submit(slow, server, 1)
        wait_until(lambda: "slow" in path.read_text())
        for pid in (*children, server.process.pid):  # as a supervisor does, to the whole group
            os.kill(pid, signal.SIGTERM)
        assert answer.result().status_code == 200
        assert server.exit_code() == 0
        wait_until(lambda: not any(map(psutil.pid_exists, children)))


def test_none_outlives_a_server_that_is_killed(
    tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    with serving(tmp_path, "--processes", "2") as server:
        path, children = tmp_path / "journal", pids(server)
        answer = background.submit(slow, server, 20)
        wait_until(lambda: "slow" in path.read_text())
        os.kill(children[0], signal.SIGSTOP)  # it cannot look whether the server is there
        server.process.kill()
        with pytest.raises(httpx.HTTPError):
            answer.result()
        wait_until(lambda: not any(map(psutil.pid_exists, children)))


def test_unloading_ends_the_processes_and_loading_starts_others(tmp_path: Path) -> None:
    with serving(tmp_path, "--processes", "2") as server:
        children = pids(server)
        control = f"http://{server.rest}/v2/repository/models/m"
        assert httpx.post(f"{control}/unload", timeout=30).status_code == 200
        assert not any(map(psutil.pid_exists, children))
        assert (tmp_path / "journal").read_text().split().count("close") == 2
        assert server.post({"instances": ["x"]}).status_code == 503
        assert httpx.post(f"{control}/load", timeout=30).status_code == 200
        assert len(pids(server)) == 2
        assert server.answers()


def test_a_new_version_takes_over_without_a_gap(servers: EchoServers) -> None:
    server = servers("--processes", "2", label="first")
    old, answers, is_done = pids(server), list[str](), threading.Event()

    def ask() -> None:
        while not is_done.is_set():
            answers.extend(server.post({"instances": ["x"]}).json()["predictions"])

    with ThreadPoolExecutor() as threads:
        asking = threads.submit(ask)
        servers.model.put(2, label="second")
        wait_until(lambda: "second" in answers)
        wait_until(lambda: not any(map(psutil.pid_exists, old)))
        is_done.set()
        asking.result()
    assert answers == sorted(answers)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_error_of_loading_is_the_same(
    launch: Callable[..., EchoServer], model: EchoModel, processes: str
) -> None:
    model.put(1, fail_load="the file is broken")
    server = launch("--processes", processes)
    assert server.exit_code() == 5
    assert "ERROR version 1 of m is not served: the file is broken" in server.log()


def test_requests_that_wait_run_as_a_batch(
    servers: EchoServers, background: ThreadPoolExecutor
) -> None:
    server = servers("--processes", "2", "--max-batch-size", "4", "--max-batch-delay", "2")
    asked = [
        background.submit(server.post, {"signature_name": "two", "inputs": {"a": [n], "b": [2.0]}})
        for n in range(4)
    ]
    sums = [future.result().json()["outputs"]["sum"][0] for future in asked]
    assert sums == [2.0, 3.0, 4.0, 5.0]
    text = httpx.get(f"http://{server.rest}/metrics").text
    assert 'mlserve_batch_size_bucket{le="4.0"}' in text or "mlserve_batch" in text
    assert servers.model.runs().count("two") < 4


def test_a_client_sees_the_errors_of_any_server(server: EchoServer) -> None:
    with Client(server.grpc, model="m") as client:
        with pytest.raises(DeadlineExceeded):
            client.infer({"seconds": [2.0]}, signature="slow", timeout=0.3)
        with pytest.raises(Unavailable):
            client.infer({"image": [b"deadly"]}, timeout=60, signature="serving_default")
