"""Random calls, cancels, failures, reloads, batches and forks, and then a count of what is left.

hypothesis makes up the traffic against one real server process of the echo backend. After each
story everything that was begun is ended, and the server must hold what it held before: no job, no
lease, no byte of a body, no task, no thread and no open file more. The same stories each time;
MLSERVE_STRESS=N tells N new ones.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import ServerProcess, stopping, wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse
from tests.harness.echo import put_version

pytestmark = [pytest.mark.server]

MODEL = "m"
FLAGS = (
    *("--threads", "2", "--max-queue", "8", "--default-timeout", "5", "--poll-seconds", "0.05"),
    *("--max-batch-size", "4", "--max-batch-delay", "0.02", "--max-connections", "200"),
    *("--model-control", "on", "--max-body-memory", str(2**23), "--max-request-bytes", str(2**21)),
)
REFUSALS = {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "NOT_FOUND", "DEADLINE_EXCEEDED", "CANCELLED"}
"""What any call may be told while models come and go and others crowd the queue."""
STATUSES = {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 404: "NOT_FOUND"}
STATUSES |= {504: "DEADLINE_EXCEEDED", 400: "INVALID_ARGUMENT", 500: "INTERNAL", 200: "OK"}
QUESTIONS: dict[str, tuple[str, str, float | None, str]] = {
    "sound": ("fragile", "a", None, "OK"),
    "out of memory": ("fragile", "a", -1.0, "INTERNAL"),
    "panic": ("fragile", "a", -1000.0, "INTERNAL"),
    "bug": ("crash", "seconds", 0.0, "INTERNAL"),
    "slow": ("slow", "seconds", 0.05, "OK"),
    "wrong name": ("fragile", "b", 1.0, "INVALID_ARGUMENT"),
}
"""Signature, input, value (None: another one for each call), and what comes of it."""
AT_REST = {"jobs": 0, "leases": 0, "running": 0, "waiting": 0, "bodies": 0, "body_bytes": 0}
AT_REST |= {"versions": 1, "open_runners": 1}
MOST_TIMERS = 150
"""asyncio keeps up to 100 cancelled timers, each with the context of the request that made it."""
MOST_GROWTH = 40
"""Megabytes: the allocator's own moods."""


class CountedServer(ServerProcess):
    """A process of counted_server.py."""

    def counts(self) -> dict[str, Any]:
        """What it holds now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.log()
        counted: dict[str, Any] = json.loads(line)
        return counted


class Models:
    """The version folders that come and go. Version numbers are never used twice."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self._last = 0
        base_path.mkdir()

    def put(self, **config: Any) -> int:
        self._last += 1
        put_version(self.base_path / str(self._last), **config)
        return self._last

    def there(self) -> list[int]:
        return sorted(int(path.name) for path in self.base_path.iterdir() if path.name.isdigit())

    def remove(self, version: int) -> None:
        shutil.rmtree(self.base_path / str(version))


class Traffic(RuleBasedStateMachine):
    """One story. `server`, `models` and `before` are set by the test."""

    server: CountedServer
    models: Models
    before: dict[str, Any]
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(32)
        self._channel = grpc.insecure_channel(self.server.grpc)
        self._http = httpx.Client(base_url=f"http://{self.server.rest}", timeout=30)
        self._pending: list[tuple[Future[str], str]] = []
        self._uploads: list[socket.socket] = []
        self._watches: list[Any] = []
        self._forks: list[subprocess.Popen[str]] = []

    @rule(
        what=st.sampled_from(sorted(QUESTIONS)),
        by=st.sampled_from(["tfs grpc", "oip grpc", "tfs rest", "oip rest"]),
        count=st.sampled_from([1, 1, 1, 3, 30]),
    )
    def ask(self, what: str, by: str, count: int) -> None:
        signature, name, given, expected = QUESTIONS[what]
        send = {"tfs grpc": self._tfs_grpc, "oip grpc": self._oip_grpc}
        send |= {"tfs rest": self._tfs_rest, "oip rest": self._oip_rest}
        for _ in range(count):
            value = float(next(self.numbers)) if given is None else given
            asked = self._threads.submit(send[by], signature, name, value)
            self._pending.append((asked, expected))

    @rule(by=st.sampled_from(["grpc", "rest"]), is_at_once=st.booleans())
    def ask_and_leave(self, by: str, is_at_once: bool) -> None:
        """Leaves before the answer: with the request itself, or once it has been taken in."""
        if by == "grpc":
            timeout = None if is_at_once else 0.02
            call = self._method(*_TFS).future(_tfs_request("slow", "seconds", 0.1), timeout=timeout)
            if is_at_once:
                call.cancel()
            else:
                call.exception()
            return
        body = json.dumps({"signature_name": "slow", "inputs": [0.1]}).encode()
        with self._post(body, len(body)):
            if not is_at_once:
                self._http.get("/metrics")

    @precondition(lambda self: len(self._uploads) < 20)
    @rule(size=st.sampled_from([1, 10_000, 2_000_000]))
    def begin_an_upload(self, size: int) -> None:
        self._uploads.append(self._post(b"x" * size, 2**21))

    @precondition(lambda self: self._uploads)
    @rule()
    def give_an_upload_up(self) -> None:
        self._uploads.pop(0).close()

    @rule(
        config=st.sampled_from(
            [{}, {}, {"fail_load": "no"}, {"fail_run": "no"}, {"load_delay": 0.1}, {"delay": 0.02}]
        )
    )
    def put_a_version(self, config: dict[str, Any]) -> None:
        self.models.put(**config)

    @rule(place=st.integers(0, 3))
    def remove_a_version(self, place: int) -> None:
        there = self.models.there()
        if len(there) > 1:
            self.models.remove(there[place % len(there)])

    @rule(verb=st.sampled_from(["load", "load", "unload"]))
    def control_the_model(self, verb: str) -> None:
        path = f"/v2/repository/models/{MODEL}/{verb}"
        answer = self._http.post(path, json={})
        assert answer.status_code in (200, 400, 404, 503), answer.text

    @precondition(lambda self: len(self._watches) < 5)
    @rule()
    def watch_the_health(self) -> None:
        stub = health_pb2_grpc.HealthStub(self._channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        next(watch)
        self._watches.append(watch)

    @precondition(lambda self: not self._forks)
    @rule(how=st.sampled_from(["at_once", "in_a_pool"]), by=st.sampled_from(["grpc", "rest"]))
    def ask_from_forks(self, how: str, by: str) -> None:
        """Whether it is answered depends on the crowd; that no answer is another's does not."""
        endpoint = self.server.grpc if by == "grpc" else f"http://{self.server.rest}"
        script = Path(__file__).parents[1] / "client" / "forking.py"
        command = [sys.executable, str(script), how, endpoint]
        self._forks.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))

    def teardown(self) -> None:
        for watch in self._watches:
            watch.cancel()
        for upload in self._uploads:
            upload.close()
        told = [(asked.result(60), expected) for asked, expected in self._pending]
        assert not [pair for pair in told if pair[0] not in {pair[1], *REFUSALS}]
        for fork in self._forks:
            said = fork.communicate(timeout=60)[1]
            assert "the answer of somebody else's question\n" not in said, said
        self._threads.shutdown()
        self._serve_one_version()
        self._http.close()
        self._channel.close()
        self._expect_nothing_left()

    def _serve_one_version(self) -> None:
        """Ends the story where it began: with one version, which answers."""
        kept = self.models.put()
        for version in self.models.there():
            if version != kept:
                self.models.remove(version)
        self._http.post(f"/v2/repository/models/{MODEL}/load", json={})
        wait_until(lambda: self._is_alone(kept))

    def _is_alone(self, version: int) -> bool:
        status = self._http.get(f"/v1/models/{MODEL}").json()["model_version_status"]
        return [s["version"] for s in status if s["state"] == "AVAILABLE"] == [str(version)]

    def _expect_nothing_left(self) -> None:
        left: dict[str, Any] = {}

        def is_at_rest() -> bool:
            left.clear()
            left.update(_more(self.server.counts(), self.before))
            return not left

        try:
            wait_until(is_at_rest, timeout=30)
        except AssertionError as error:
            raise AssertionError(f"still held: {left}\n{self.server.log()[-3000:]}") from error

    def _method(self, path: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def _tfs_grpc(self, signature: str, name: str, value: float) -> str:
        request = _tfs_request(signature, name, value)
        return _status(lambda: self._method(*_TFS)(request, timeout=20), _of_tfs, value)

    def _oip_grpc(self, signature: str, name: str, value: float) -> str:
        request = ModelInferRequest(model_name=MODEL)
        request.parameters["signature"].string_param = signature
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(value)
        return _status(lambda: self._method(*_OIP)(request, timeout=20), _of_oip, value)

    def _tfs_rest(self, signature: str, name: str, value: float) -> str:
        body = {"signature_name": signature, "inputs": {name: [value]}}
        answer = self._http.post(f"/v1/models/{MODEL}:predict", json=body)
        if answer.status_code == 200:
            assert answer.json()["outputs"] == [pytest.approx(value)], answer.text
        return STATUSES[answer.status_code]

    def _oip_rest(self, signature: str, name: str, value: float) -> str:
        tensor = {"name": name, "datatype": "FP32", "shape": [1], "data": [value]}
        body = {"parameters": {"signature": signature}, "inputs": [tensor]}
        answer = self._http.post(f"/v2/models/{MODEL}/infer", json=body)
        if answer.status_code == 200:
            assert answer.json()["outputs"][0]["data"] == [pytest.approx(value)], answer.text
        return STATUSES[answer.status_code]

    def _post(self, body: bytes, length: int) -> socket.socket:
        host, _, port = self.server.rest.rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        head = f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}"
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        return connection


_TFS = ("/tensorflow.serving.PredictionService/Predict", PredictRequest, PredictResponse)
_OIP = ("/inference.GRPCInferenceService/ModelInfer", ModelInferRequest, ModelInferResponse)


def _tfs_request(signature: str, name: str, value: float) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL, signature
    request.inputs[name].CopyFrom(from_array(np.array([value], np.float32), DType.FLOAT32))
    return request


def _of_tfs(response: PredictResponse) -> float:
    (tensor,) = response.outputs.values()
    return float(tensor.float_val[0])


def _of_oip(response: ModelInferResponse) -> float:
    return float(response.outputs[0].contents.fp32_contents[0])


def _status(ask: Callable[[], Any], read: Callable[[Any], float], value: float) -> str:
    try:
        response = ask()
    except grpc.RpcError as error:
        name: str = error.code().name
        return name
    assert read(response) == pytest.approx(value), "the answer of another question"
    return "OK"


def _more(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What a server at rest holds that it should not, or more of than before."""
    left = {what: now[what] for what, count in AT_REST.items() if now[what] != count}
    if now["exchanges"] > MOST_TIMERS:
        left["exchanges"] = now["exchanges"]
    limits = before | {"megabytes": before.get("megabytes", 0) + MOST_GROWTH}
    for what in ("threads", "files", "megabytes") if before else ():
        if now[what] > limits[what]:
            left[what] = before[what], now[what]
    tasks = {k: n for k, n in now["tasks"].items() if n > before.get("tasks", {k: n}).get(k, 0)}
    return left | ({"tasks": tasks} if tasks else {})


@contextmanager
def counted(folder: Path) -> Iterator[tuple[CountedServer, Models]]:
    models = Models(folder / MODEL)
    models.put()
    script = Path(__file__).with_name("counted_server.py")
    source = ("--backend", "echo", "--model", MODEL, "--base-path", str(models.base_path))
    ports = ("--grpc-port", "0", "--rest-port", "0")
    argv = [sys.executable, str(script), *source, *ports, *FLAGS]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as process,
        stopping(process),
    ):
        yield CountedServer(process, MODEL, folder / "log"), models


def test_a_server_holds_no_more_after_random_traffic_than_before(tmp_path: Path) -> None:
    told = os.environ.get("MLSERVE_STRESS")
    stories = settings(
        max_examples=int(told or 12),
        stateful_step_count=40,
        deadline=None,
        derandomize=told is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # the server lives on from story to story: none can be shrunk
        report_multiple_bugs=False,
    )
    with counted(tmp_path) as (server, models):
        Traffic.server, Traffic.models = server, models
        Traffic.numbers = iter(range(1, 2**24))
        Traffic.before = {}
        _warm_up()
        Traffic.before = server.counts()
        run_state_machine_as_test(Traffic, settings=stories)
        server.process.terminate()
        assert server.process.wait(60) == 0, server.log()


def _warm_up() -> None:
    """One of each, as a server has more threads and tables once it was used."""
    story = Traffic()
    for by in ("tfs grpc", "oip grpc", "tfs rest", "oip rest"):
        for what in QUESTIONS:
            story.ask(what, by, 30)
    story.begin_an_upload(10_000)
    story.watch_the_health()
    for _ in range(8):
        story.control_the_model("load")
    story.teardown()
