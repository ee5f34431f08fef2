"""Real servers of the echo backend, each a process on ports of the OS's choice."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mlserve.artifact import Manifest, digest_of, labels_text
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse

MODEL = "m"


def wait_until(condition: Callable[[], Any], timeout: float = 20) -> Any:
    """What `condition` returns once it is true; an AssertionError when it never is."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout} s: {condition}"
        time.sleep(0.01)
    return value


class EchoModel:
    """A base path whose version folders appear whole."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self.journal = base_path.parent / "journal"
        self.journal.touch()
        base_path.mkdir()

    def put(self, version: int, **config: Any) -> Path:
        incoming = self.base_path / f".incoming-{version}"
        incoming.mkdir()
        content = {"journal": str(self.journal), **config}
        (incoming / "echo.json").write_text(json.dumps(content))
        return incoming.rename(self.base_path / str(version))

    def runs(self) -> list[str]:
        """The signatures that were run, and "close" for each Runner that was closed."""
        return self.journal.read_text().splitlines()


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    log_path: Path
    grpc: str = ""
    rest: str = ""

    def log(self) -> str:
        return self.log_path.read_text()

    def ports(self) -> bool:
        found = re.search(r"listening grpc=(\S+) rest=([^\s\"]+)[\"\n]", self.log())
        if found:
            self.grpc, self.rest = found[1], found[2]
        assert found or self.process.poll() is None, self.log()
        return found is not None

    def state(self, version: int) -> str:
        """The state of that version; empty when there is none."""
        statuses = httpx.get(f"http://{self.rest}/v1/models/{MODEL}").json()
        found = [
            s["state"] for s in statuses["model_version_status"] if s["version"] == str(version)
        ]
        return found[0] if found else ""

    def is_available(self) -> bool:
        assert self.process.poll() is None, self.log()
        answer = httpx.get(f"http://{self.rest}/v1/models/{MODEL}").json()
        return any(s["state"] == "AVAILABLE" for s in answer["model_version_status"])

    def post(self, body: Any, path: str = f"/v1/models/{MODEL}:predict", **kwargs: Any) -> Any:
        return httpx.post(f"http://{self.rest}{path}", json=body, timeout=30, **kwargs)

    def answers(self) -> bool:
        return bool(self.post({"inputs": ["x"]}).status_code == 200)

    def is_quiet(self) -> bool:
        """Whether the log holds nothing of what strangers did to the connections."""
        told = (line for line in self.log().splitlines() if " INFO " not in line)
        assert not [line for line in told if " more failed in the last " not in line]
        return True

    def exit_code(self) -> int:
        return self.process.wait(20)


@contextmanager
def running(model: EchoModel, log_path: Path, *args: str) -> Iterator[RunningServer]:
    command = [sys.executable, "-m", "mlserve.server", "--backend", "echo", "--model", MODEL]
    ports = ["--grpc-port", "0", "--rest-port", "0", "--poll-seconds", "0.05"]
    argv = [*command, "--base-path", str(model.base_path), *ports, *args]
    with log_path.open("wb") as log, subprocess.Popen(argv, stderr=log) as process:
        try:
            yield RunningServer(process, log_path)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    return EchoModel(tmp_path / MODEL)


@pytest.fixture
def launch(model: EchoModel, tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts a server and returns it at once; its options are the arguments."""
    with ExitStack() as servers:
        yield lambda *args: servers.enter_context(running(model, tmp_path / "log", *args))


@pytest.fixture
def start(launch: Callable[..., RunningServer]) -> Callable[..., RunningServer]:
    """Starts a server and returns it when its model is available."""

    def start(*args: str) -> RunningServer:
        server = launch(*args)
        wait_until(server.ports)
        wait_until(server.is_available)
        return server

    return start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server of one echo model for the tests of a module."""
    folder = tmp_path_factory.mktemp("server")
    model = EchoModel(folder / MODEL)
    model.put(7)
    with running(model, folder / "log") as server:
        wait_until(server.ports)
        wait_until(server.is_available)
        yield server


@pytest.fixture(scope="session")
def serve_echo() -> Callable[..., Any]:
    """`serve_echo(folder, *flags)`: a block with a server of version 7 that is available.

    `wait` tells when it is, of a server that does not tell everybody.
    """

    @contextmanager
    def serve(
        folder: Path, *flags: str, wait: Callable[[RunningServer], bool] | None = None
    ) -> Iterator[RunningServer]:
        model = EchoModel(folder / MODEL)
        model.put(7)
        with running(model, folder / "log", *flags) as server:
            wait_until(server.ports)
            wait_until(server.is_available if wait is None else partial(wait, server))
            yield server

    return serve


@pytest.fixture
def wait() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def request_of() -> Callable[..., PredictRequest]:
    """Builds a request from arrays as `name=(array, dtype)`."""

    def build(signature: str = "", **inputs: Any) -> PredictRequest:
        request = PredictRequest()
        request.model_spec.name = MODEL
        request.model_spec.signature_name = signature
        for name, (array, dtype) in inputs.items():
            request.inputs[name].CopyFrom(from_array(array, dtype))
        return request

    return build


@pytest.fixture
def channel_to() -> Iterator[Callable[[RunningServer], grpc.Channel]]:
    with ExitStack() as channels:
        yield lambda server: channels.enter_context(grpc.insecure_channel(server.grpc))


@pytest.fixture
def predict_on(channel_to: Any) -> Callable[..., Any]:
    """Sends a request over gRPC: `predict_on(server, request, timeout=...)`."""

    def predict(server: RunningServer, request: PredictRequest, timeout: float = 20) -> Any:
        method = channel_to(server).unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        return method.future(request, timeout=timeout)

    return predict


@pytest.fixture
def infer_on(channel_to: Any) -> Callable[..., Any]:
    """Sends an Open Inference request over gRPC: `infer_on(server, request, timeout=...)`."""

    def infer(server: RunningServer, request: ModelInferRequest, timeout: float = 20) -> Any:
        method = channel_to(server).unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        return method.future(request, timeout=timeout)

    return infer


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """Builds the manifest of a model with one signature: `manifest(has_random_weights=...)`."""
    image = TensorSpec("image", DType.BYTES, (None,))
    label = TensorSpec("output_0", DType.BYTES, (None,))

    def build(*, has_random_weights: bool) -> Manifest:
        return Manifest(
            mlserve="0.1.0",
            backend="echo",
            model="m",
            source="echo",
            created="2026-01-01T00:00:00Z",
            weights_digest=digest_of(b""),
            labels_digest=digest_of(labels_text(["sorrel"])),
            has_random_weights=has_random_weights,
            pipeline=ImagePipeline(1, 1, 1.0, 0.0, Activation.IDENTITY, 1),
            signatures=(Signature("serving_default", (image,), (label,)),),
        )

    return build


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    """A client of the REST port of the running server."""
    with httpx.Client(base_url=f"http://{server.rest}", timeout=20) as client:
        yield client


@pytest.fixture
def triton_to() -> Iterator[Callable[[RunningServer, str], Any]]:
    """Triton's own client of a server: `triton_to(server, "http")` or `"grpc"`.

    It has one method more, `tensor(name, array)`, as each of the two has inputs of its own.
    """
    with ExitStack() as clients:

        def connect(server: RunningServer, protocol: str) -> Any:
            module = importlib.import_module(f"tritonclient.{protocol}")
            address = server.rest if protocol == "http" else server.grpc
            client = module.InferenceServerClient(address)
            clients.callback(client.close)

            def tensor(name: str, value: Any, **options: Any) -> Any:
                datatype = "BYTES" if value.dtype == object else "FP32"
                item = module.InferInput(name, list(value.shape), datatype)
                item.set_data_from_numpy(value, **options)
                return item

            client.tensor = tensor
            return client

        yield connect
