"""Real servers of the echo backend, each a process on ports of the OS's choice."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mlserve.server.tfs.tensor_proto import from_array
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse
from tests.harness.echo import EchoModel
from tests.harness.server import MODEL, EchoServer, running, serving


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    return EchoModel(tmp_path / MODEL)


@pytest.fixture
def launch(model: EchoModel, tmp_path: Path) -> Iterator[Callable[..., EchoServer]]:
    """Starts a server and returns it at once; its options are the arguments."""
    with ExitStack() as servers:
        yield lambda *args: servers.enter_context(running(model, tmp_path / "log", *args))


@pytest.fixture
def start(launch: Callable[..., EchoServer]) -> Callable[..., EchoServer]:
    """Starts a server and returns it when its model is available."""

    def start(*args: str) -> EchoServer:
        server = launch(*args)
        wait_until(server.is_available)
        return server

    return start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """One server of one echo model, in version 7, for the tests of a module."""
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


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
def channel_to() -> Iterator[Callable[[EchoServer], grpc.Channel]]:
    with ExitStack() as channels:
        yield lambda server: channels.enter_context(grpc.insecure_channel(server.grpc))


@pytest.fixture
def predict_on(channel_to: Any) -> Callable[..., Any]:
    """Sends a request over gRPC: `predict_on(server, request, timeout=...)`."""

    def predict(server: EchoServer, request: PredictRequest, timeout: float = 20) -> Any:
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

    def infer(server: EchoServer, request: ModelInferRequest, timeout: float = 20) -> Any:
        method = channel_to(server).unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        return method.future(request, timeout=timeout)

    return infer


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    """A client of the REST port of the running server."""
    with httpx.Client(base_url=f"http://{server.rest}", timeout=20) as client:
        yield client


@pytest.fixture
def triton_to() -> Iterator[Callable[[EchoServer, str], Any]]:
    """Triton's own client of a server: `triton_to(server, "http")` or `"grpc"`.

    It has one method more, `tensor(name, array)`, as each of the two has inputs of its own.
    """
    with ExitStack() as clients:

        def connect(server: EchoServer, protocol: str) -> Any:
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
