"""Servers of other makers that speak the Open Inference Protocol and nothing else."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from mlserve.wire.proto import inference_extensions_pb2, inference_pb2

MODEL = "stranger"
SIZE_HEADER = "Inference-Header-Content-Length"
Declared = tuple[str, str, list[int]]
FIELDS = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "INT32": "int_contents"}
CODES = {"FP32": "f", "INT32": "i"}


class Refusal(Exception):
    """An error status: its gRPC code name, its HTTP status, its text."""

    def __init__(self, code: str, http: int, text: str) -> None:
        super().__init__(text)
        self.code, self.http, self.text = code, http, text


@dataclass
class Output:
    """One output of an answer; values in row-major order, strings as str."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any]

    def raw(self) -> bytes:
        if self.datatype == "BYTES":
            texts = [value.encode() for value in self.values]
            return b"".join(struct.pack("<I", len(text)) + text for text in texts)
        return struct.pack(f"<{len(self.values)}{CODES[self.datatype]}", *self.values)


@dataclass
class Asked:
    """One inference that was asked for, whatever it was written in."""

    input: str
    shape: list[int]
    image: bytes
    parameters: dict[str, Any]
    outputs: dict[str, dict[str, Any]]
    deadline: float


@dataclass
class OipModel:
    """What the server offers. `gone` is (status, body) of its REST paths that do not exist.

    `is_raw`: it answers in raw contents over gRPC, in binary data over REST. `reads_binary` is
    False for a REST server without that extension: it refuses such a request with `binary_refusal`,
    and its metadata lists its extensions, if `says_extensions`. `v1` is (status, body) of another
    API at TensorFlow Serving's paths.
    `index` are the names and states of the repository index; None: the server has none.
    """

    inputs: list[Declared] = field(default_factory=lambda: [("jpeg", "BYTES", [-1])])
    outputs: list[Declared] = field(default_factory=lambda: [("label", "BYTES", [-1])])
    answer: list[Output] = field(default_factory=lambda: [Output("label", "BYTES", [1], ["ox"])])
    versions: list[str] = field(default_factory=lambda: ["7"])
    is_ready: bool = True
    is_raw: bool = False
    reads_binary: bool = True
    says_extensions: bool = True
    binary_refusal: int = 422
    refusal: Refusal | None = None
    gone: tuple[int, bytes] = (404, b'{"detail":"Not Found"}')
    v1: tuple[int, bytes] | None = None
    index: list[tuple[str, str]] | None = None
    asked: list[Asked] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def meet(self, model: str, call: str) -> None:
        self.calls.append(call)
        if self.refusal:
            raise self.refusal
        if model != MODEL:
            raise Refusal("NOT_FOUND", 404, f"Request for unknown model: '{model}' is not found")


class OipGrpc(grpc.GenericRpcHandler):
    """The gRPC side. Other services are not known to it."""

    def __init__(self, model: OipModel) -> None:
        self._model = model
        self._methods = {
            "ModelInfer": (self._infer, inference_pb2.ModelInferRequest),
            "ModelMetadata": (self._metadata, inference_pb2.ModelMetadataRequest),
            "ModelReady": (self._ready, inference_pb2.ModelReadyRequest),
        }
        if model.index is not None:
            self._methods["RepositoryIndex"] = (
                self._index,
                inference_extensions_pb2.RepositoryIndexRequest,
            )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        service, _, name = details.method.rpartition("/")
        if service != "/inference.GRPCInferenceService":
            self._model.calls.append("tfs")
            return None
        if name not in self._methods:
            return None
        method, kind = self._methods[name]

        def answer(request: Any, context: grpc.ServicerContext) -> bytes:
            named = {"ModelInfer": "model_name", "RepositoryIndex": ""}.get(name, "name")
            model = getattr(request, named) if named else MODEL
            try:
                self._model.meet(model, name)
                return bytes(method(request, context).SerializeToString())
            except Refusal as refusal:
                context.abort(grpc.StatusCode[refusal.code], refusal.text)

        return grpc.unary_unary_rpc_method_handler(answer, kind.FromString)

    def _infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        (tensor,), (raw,) = request.inputs, request.raw_input_contents
        assert struct.unpack_from("<I", raw)[0] == len(raw) - 4
        outputs = {item.name: _values(item.parameters) for item in request.outputs}
        parameters, left = _values(request.parameters), context.time_remaining()
        asked = Asked(tensor.name, list(tensor.shape), raw[4:], parameters, outputs, left)
        self._model.asked.append(asked)
        response = inference_pb2.ModelInferResponse(model_name=MODEL, model_version="7")
        for output in self._model.answer:
            row = response.outputs.add(
                name=output.name, datatype=output.datatype, shape=output.shape
            )
            if self._model.is_raw:
                response.raw_output_contents.append(output.raw())
                continue
            values = [v.encode() if isinstance(v, str) else v for v in output.values]
            getattr(row.contents, FIELDS[output.datatype]).extend(values)
        return response

    def _metadata(self, _: Any, context: object) -> Any:
        response = inference_pb2.ModelMetadataResponse(name=MODEL, versions=self._model.versions)
        for specs, rows in (
            (self._model.inputs, response.inputs),
            (self._model.outputs, response.outputs),
        ):
            for name, datatype, shape in specs:
                rows.add(name=name, datatype=datatype, shape=shape)
        return response

    def _index(self, _: Any, context: object) -> Any:
        response = inference_extensions_pb2.RepositoryIndexResponse()
        for name, state in self._model.index or ():
            response.models.add(name=name, version="7", state=state)
        return response

    def _ready(self, _: Any, context: object) -> Any:
        return inference_pb2.ModelReadyResponse(ready=self._model.is_ready)


def _values(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in parameters.items()
    }


def _read_request(body: bytes, headers: Any) -> Asked:
    size = headers.get(SIZE_HEADER)
    request = json.loads(body[: int(size)] if size else body)
    (tensor,) = request["inputs"]
    parameters = tensor["parameters"]
    if size:
        image = body[int(size) :][4 : parameters["binary_data_size"]]
    else:
        image = base64.b64decode(tensor["data"][0])
    outputs = {item["name"]: item["parameters"] for item in request.get("outputs", ())}
    deadline = int(headers["X-Request-Timeout-Ms"]) / 1000
    return Asked(tensor["name"], tensor["shape"], image, request["parameters"], outputs, deadline)


def _write_answer(model: OipModel) -> tuple[bytes, dict[str, str]]:
    rows, tail = [], b""
    for output in model.answer:
        row = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        tail += output.raw() if model.is_raw else b""
        size = {"binary_data_size": len(output.raw())}
        rows.append(row | ({"parameters": size} if model.is_raw else {"data": output.values}))
    answer = {"model_name": MODEL, "model_version": "7", "outputs": rows}
    head = json.dumps(answer).encode()
    return head + tail, {SIZE_HEADER: str(len(head))} if tail else {}


def _rest_reply(
    model: OipModel, verb: str, body: bytes, headers: Any
) -> tuple[int, bytes, dict[str, str]]:
    if verb == "ready":
        return 200 if model.is_ready else 400, b"", {}
    if verb == "infer" and SIZE_HEADER in headers and not model.reads_binary:
        return model.binary_refusal, b'{"detail":[{"loc":["body",3]}]}', {}
    if verb == "infer":
        model.asked.append(_read_request(body, headers))
        return 200, *_write_answer(model)
    keys = ("name", "datatype", "shape")
    inputs, outputs = (
        [dict(zip(keys, spec, strict=True)) for spec in specs]
        for specs in (model.inputs, model.outputs)
    )
    described = {"name": MODEL, "versions": model.versions, "inputs": inputs, "outputs": outputs}
    return 200, json.dumps(described).encode(), {}


def _beside_models(model: OipModel, parts: list[str]) -> tuple[int, bytes]:
    """The answer at a path that is not below `/v2/models`."""
    about = _about_server(model, parts)
    if about is not None:
        return 200, json.dumps(about).encode()
    if parts == ["v2"]:
        return model.gone
    model.calls.append("tfs")
    return model.v1 if model.v1 and parts[-1] != "metadata" else model.gone


def _about_server(model: OipModel, parts: list[str]) -> Any:
    """What the server says of itself at that path; None for a path that it does not have."""
    if parts == ["v2", "repository", "index"] and model.index is not None:
        model.calls.append("RepositoryIndex")
        return [{"name": name, "state": state} for name, state in model.index]
    if parts == ["v2"] and model.says_extensions:
        extensions = ["binary_tensor_data"] if model.reads_binary else []
        return {"name": "stranger", "version": "1", "extensions": extensions}
    return None


def _rest_handler(model: OipModel) -> type[BaseHTTPRequestHandler]:
    class OipRest(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            parts = self.path.strip("/").split("/")
            if parts[:2] == ["v2", "models"]:
                verb = parts[-1] if parts[-1] in ("infer", "ready") else "metadata"
                try:
                    model.meet(parts[2], verb)
                    self._send(*_rest_reply(model, verb, body, self.headers))
                except Refusal as refusal:
                    self._send(refusal.http, json.dumps({"error": refusal.text}).encode(), {})
                return
            self._send(*_beside_models(model, parts), {})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    return OipRest


Serve = Callable[[OipModel], str]


@pytest.fixture
def stops() -> Iterator[list[Callable[[], object]]]:
    """What to call when the test ends."""
    found: list[Callable[[], object]] = []
    yield found
    for stop in found:
        stop()


@pytest.fixture
def over_grpc(stops: list[Callable[[], object]]) -> Serve:
    """`over_grpc(model)` is the `host:port` of a gRPC server."""

    def serve(model: OipModel) -> str:
        server = grpc.server(ThreadPoolExecutor(4), handlers=[OipGrpc(model)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stops.append(lambda: server.stop(None).wait())
        return f"127.0.0.1:{port}"

    return serve


@pytest.fixture
def over_rest(stops: list[Callable[[], object]]) -> Serve:
    """`over_rest(model)` is the URL of an HTTP server."""

    def serve(model: OipModel) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _rest_handler(model))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        stops.extend([server.shutdown, server.server_close, thread.join])
        return f"http://127.0.0.1:{server.server_address[1]}"

    return serve


@pytest.fixture(params=["grpc", "rest"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """`serve(model)` is the endpoint of a server, once for each protocol."""
    found: Serve = request.getfixturevalue(f"over_{request.param}")
    return found


@pytest.fixture
def oip() -> SimpleNamespace:
    """The classes that a server is described with: Model, Output and Refusal."""
    return SimpleNamespace(Model=OipModel, Output=Output, Refusal=Refusal)
