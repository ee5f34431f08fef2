"""The table of errors, end to end: each situation on both protocols and in both APIs.

A row prepares a real server. `wire` asks it with the messages as they are and looks at the status
code; `cli` asks it with `mlserve predict` and looks at the exit code and the error's kind. A cell
that cannot be is named with its reason in `_CANNOT_BE`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.artifact import Artifact
from mlserve.protocols.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.protocols.proto.serving_pb2 import PredictRequest
from mlserve.server.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import ServerProcess, launched, wait_until
from mlserve.testing.questions import predict_method, request_of

pytestmark = pytest.mark.slow

PROTOCOLS = ("grpc", "rest")
APIS = ("tfs", "oip")
PHOTO = b"\xff\xd8\xff a photo"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Asked:
    """A server's addresses and what to ask it for."""

    grpc: str
    rest: str
    model: str = "m"
    version: int | None = None
    image: bytes = PHOTO
    signature: str = "serving_default"
    input: str = "image"
    timeout: float = 10.0

    def endpoint(self, protocol: str) -> str:
        return self.grpc if protocol == "grpc" else f"http://{self.rest}"


@dataclass
class Started:
    """Starts servers of the echo backend, which end with the test."""

    folder: Path

    @property
    def journal(self) -> Path:
        """Where the model notes what it runs."""
        return self.folder / "journal"

    @contextmanager
    def server(self, *options: str, ready: bool = True, **config: Any) -> Iterator[ServerProcess]:
        version = self.folder / "m" / "1"
        version.mkdir(parents=True)
        (version / "echo.json").write_text(json.dumps({"journal": str(self.journal), **config}))
        self.journal.touch()
        artifact = Artifact.open(version.parent, "m", 1)
        with launched("echo", artifact, "--threads", "1", *options) as server:
            if ready:
                server.wait_ready()
            yield server


Prepare = Callable[[Started], Any]


@contextmanager
def good(start: Started, *options: str, **asked: Any) -> Iterator[Asked]:
    with start.server(*options) as server:
        yield Asked(server.grpc, server.rest, **asked)


@contextmanager
def stalled(start: Started) -> Iterator[Asked]:
    """The deadline passes at the client, as the server does nothing at all."""
    with start.server() as server:
        server.process.send_signal(signal.SIGSTOP)
        try:
            yield Asked(server.grpc, server.rest, timeout=1.0)
        finally:
            server.process.send_signal(signal.SIGCONT)


@contextmanager
def busy(start: Started, server: ServerProcess) -> Iterator[None]:
    """While the server's one thread runs a request."""
    request = PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "slow"
    array = np.array([60.0], np.float32)
    request.inputs["seconds"].CopyFrom(from_array(array, DType.FLOAT32))
    with grpc.insecure_channel(server.grpc) as channel:
        call = predict_method(channel).future(request, timeout=120)
        wait_until(lambda: "slow" in start.journal.read_text())
        yield
        call.cancel()


@contextmanager
def full(start: Started) -> Iterator[Asked]:
    with start.server("--max-queue", "0") as server, busy(start, server):
        yield Asked(server.grpc, server.rest)


@contextmanager
def too_slow(start: Started) -> Iterator[Asked]:
    """The model is known to take six seconds, the server is busy, and there is less time."""
    ended = threading.Event()
    with start.server(delay=6) as server:

        def ask() -> None:
            with server.client() as client:
                while not ended.is_set():
                    client.predict(PHOTO, timeout=60)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        wait_until(lambda: start.journal.read_text().count("top_k") > 1)
        yield Asked(server.grpc, server.rest, timeout=5.0)
        ended.set()
        for asker in askers:
            asker.join()


@contextmanager
def starting(start: Started) -> Iterator[Asked]:
    with start.server(ready=False, load_delay=60) as server:
        wait_until(lambda: server.state(1) == "LOADING")
        yield Asked(server.grpc, server.rest, timeout=10.0)


@contextmanager
def draining(start: Started) -> Iterator[Asked]:
    with start.server("--drain-timeout", "60") as server, busy(start, server):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: " in server.log())
        yield Asked(server.grpc, server.rest, timeout=10.0)
        server.process.send_signal(signal.SIGTERM)


@contextmanager
def unreachable(start: Started) -> Iterator[Asked]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*bound.getsockname())
        yield Asked(address, address, timeout=10.0)


@contextmanager
def guarded(start: Started) -> Iterator[Asked]:
    token = start.folder / "token"
    token.write_text("a-token-of-the-tests\n")
    token.chmod(0o600)
    with start.server("--token-file", str(token), ready=False) as server:
        wait_until(lambda: "is available" in server.log())
        yield Asked(server.grpc, server.rest)


@contextmanager
def failing(start: Started) -> Iterator[Asked]:
    with start.server(fail_run="the model is broken") as server:
        yield Asked(server.grpc, server.rest)


@dataclass(frozen=True)
class Row:
    """A situation, and what it is on the wire and in the command."""

    prepare: Prepare
    grpc: str
    http: int
    exit_code: int
    kinds: tuple[str, ...]


TABLE = {
    "the deadline passes at the client": Row(
        stalled, "DEADLINE_EXCEEDED", 504, 124, ("deadline_exceeded",)
    ),
    "the deadline has passed at the server": Row(
        lambda start: good(start, timeout=0.0), "DEADLINE_EXCEEDED", 504, 124, ()
    ),
    "the queue is full": Row(full, "RESOURCE_EXHAUSTED", 429, 7, ("overloaded",)),
    "it cannot make the deadline": Row(too_slow, "RESOURCE_EXHAUSTED", 429, 7, ("overloaded",)),
    "starting": Row(starting, "UNAVAILABLE", 503, 5, ("unavailable",)),
    "draining": Row(draining, "UNAVAILABLE", 503, 5, ("unavailable",)),
    "unreachable": Row(unreachable, "UNAVAILABLE", 503, 5, ("unavailable",)),
    "not an image": Row(
        lambda start: good(start, image=b"bad"),
        "INVALID_ARGUMENT",
        415,
        2,
        ("not_an_image", "invalid_input"),
    ),
    "a wrong input": Row(
        lambda start: good(start, input="picture"), "INVALID_ARGUMENT", 400, 2, ()
    ),
    "too large": Row(
        lambda start: good(start, "--max-request-bytes", "10000", image=PHOTO * 1000),
        "RESOURCE_EXHAUSTED",  # gRPC's own word, before any code of ours
        413,
        2,
        ("input_too_large",),
    ),
    "an unknown model": Row(
        lambda start: good(start, model="nope"), "NOT_FOUND", 404, 2, ("not_found",)
    ),
    "an unknown version": Row(
        lambda start: good(start, version=9), "NOT_FOUND", 404, 2, ("not_found",)
    ),
    "an unknown signature": Row(
        lambda start: good(start, signature="nope"), "NOT_FOUND", 404, 2, ()
    ),
    "unauthenticated": Row(guarded, "UNAUTHENTICATED", 401, 2, ("access_denied",)),
    "the model fails": Row(failing, "INTERNAL", 500, 6, ("inference_failed",)),
}
_CANNOT_BE = {
    ("the deadline passes at the client", "wire", "rest"): "HTTP has no word for it",
    ("unreachable", "wire", "rest"): "there is nobody to answer",
    ("the deadline has passed at the server", "cli", None): "the command sends nothing then",
    ("a wrong input", "cli", None): "the command takes the names from the server",
    ("an unknown signature", "cli", None): "the command takes the names from the server",
}


def cells() -> list[Any]:
    """The cells of the table that can be, row after row, as each row's server is started once."""
    return [
        pytest.param(name, through, protocol, id=f"{name}-{through}-{protocol}")
        for name in TABLE
        for through in ("wire", "cli")
        for protocol in PROTOCOLS
        if not {(name, through, None), (name, through, protocol)} & set(_CANNOT_BE)
    ]


@pytest.fixture(scope="module")
def situation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Row, Asked]]:
    """A row, and what to ask in its situation: prepared once for all its cells."""
    row = TABLE[request.param]
    with row.prepare(Started(tmp_path_factory.mktemp("row"))) as asked:
        yield row, asked


@pytest.mark.parametrize(("situation", "through", "protocol"), cells(), indirect=["situation"])
def test_a_cell(situation: tuple[Row, Asked], through: str, protocol: str, tmp_path: Path) -> None:
    """Both APIs say the same."""
    row, asked = situation
    if through == "cli":
        check_command(row, asked, protocol, tmp_path / "photo.jpg")
    elif protocol == "grpc":
        with grpc.insecure_channel(asked.grpc) as channel:
            assert {api: ask_grpc(channel, asked, api) for api in APIS} == dict.fromkeys(
                APIS, row.grpc
            )
    else:
        check_http(row, asked)


def check_http(row: Row, asked: Asked) -> None:
    """The status code, with an error's text, and with when to come back where that is said."""
    with httpx.Client(timeout=10) as client:
        answers = [ask_rest(client, asked, api) for api in APIS]
    assert [answer.status_code for answer in answers] == [row.http] * len(APIS)
    for answer in answers:
        assert answer.json()["error"]
        assert row.http != 429 or int(answer.headers["retry-after"]) >= 1


def check_command(row: Row, asked: Asked, protocol: str, photo: Path) -> None:
    """The exit code, the error as JSON on standard error, and nothing on standard output."""
    photo.write_bytes(asked.image)
    for api, (code, stdout, stderr) in predicted(photo, asked, protocol).items():
        assert (api, code, stdout) == (api, row.exit_code, ""), stderr
        error = json.loads(stderr)["error"]
        assert error["kind"] in row.kinds, (api, error)
        assert error["exit_code"] == row.exit_code
        assert error["hint"]


def test_the_table_has_a_row_for_each_exit_code_of_an_answer() -> None:
    assert {row.exit_code for row in TABLE.values()} == {2, 5, 6, 7, 124}


def predicted(photo: Path, asked: Asked, protocol: str) -> dict[str, tuple[int, str, str]]:
    """What the command ends with in each API, both at the same time."""
    options = ["--endpoint", asked.endpoint(protocol), "--model", asked.model]
    options += ["--timeout", str(asked.timeout), "--max-attempts", "2", "--output", "json"]
    if asked.version is not None:
        options += ["--version", str(asked.version)]
    argv = [sys.executable, "-m", "mlserve", "predict", str(photo), *options]
    running = {
        api: subprocess.Popen(
            [*argv, "--api", api],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        for api in APIS
    }
    outputs = {api: process.communicate(timeout=30) for api, process in running.items()}
    return {api: (running[api].returncode, *outputs[api]) for api in APIS}


def ask_grpc(channel: grpc.Channel, asked: Asked, api: str) -> str:
    """The name of the status code."""
    request, method = _tfs_message(asked), predict_method(channel)
    if api == "oip":
        request = _oip_message(asked)
        method = channel.unary_unary(
            INFER,
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
    try:
        method(request, timeout=asked.timeout)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def _tfs_message(asked: Asked) -> PredictRequest:
    request = request_of(asked.model, asked.image, signature=asked.signature)
    if asked.input != "image":
        request.inputs[asked.input].CopyFrom(request.inputs["image"])
        del request.inputs["image"]
    if asked.version is not None:
        request.model_spec.version.value = asked.version
    return request


def _oip_message(asked: Asked) -> ModelInferRequest:
    version = "" if asked.version is None else str(asked.version)
    request = ModelInferRequest(model_name=asked.model, model_version=version)
    tensor = request.inputs.add(name=asked.input, datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(asked.image)
    request.parameters["signature"].string_param = asked.signature
    return request


def ask_rest(client: httpx.Client, asked: Asked, api: str) -> httpx.Response:
    """The answer to the same question in JSON."""
    headers = {"X-Request-Timeout-Ms": str(round(asked.timeout * 1000))}
    version = "" if asked.version is None else f"/versions/{asked.version}"
    text = asked.image.decode("latin-1")
    body: dict[str, Any]
    if api == "tfs":
        path = f"/v1/models/{asked.model}{version}:predict"
        body = {"signature_name": asked.signature, "inputs": {asked.input: [text]}}
    else:
        path = f"/v2/models/{asked.model}{version}/infer"
        tensor = {"name": asked.input, "shape": [1], "datatype": "BYTES", "data": [text]}
        body = {"inputs": [tensor], "parameters": {"signature": asked.signature}}
    return client.post(f"http://{asked.rest}{path}", json=body, headers=headers)
