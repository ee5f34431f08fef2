"""A server of another maker: it answers as TensorFlow Serving does, over gRPC and REST."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

from mlserve.tensors import Signature
from mlserve.wire.proto import framework_pb2, serving_pb2

MODEL = "stranger"
VERSION = 7
HTTP = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404}


class Refusal(Exception):
    """An error status: its gRPC code name, its text, extra metadata and the HTTP status."""

    def __init__(
        self, code: str, text: str, *, http: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.code, self.text = code, text
        self.http = http or HTTP[code]
        self.headers = headers or {}


@dataclass
class ForeignModel:
    """What the server offers. `answers`: the outputs of each signature, as REST would print them.

    `refusal` is what every call meets, `refusals` are what the first calls meet before; `asked`
    lists the signatures that were asked, `met` the headers or metadata of every call.
    """

    signatures: tuple[Signature, ...]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusal: Refusal | None = None
    refusals: list[Refusal] = field(default_factory=list)
    state: str = "AVAILABLE"
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    metadata_calls: int = 0
    met: list[dict[str, str]] = field(default_factory=list)

    def meet(self, model: str, headers: Iterable[tuple[str, Any]]) -> None:
        self.met.append({key.lower(): value for key, value in headers})
        if self.refusals:
            raise self.refusals.pop(0)
        if self.refusal:
            raise self.refusal
        if model != MODEL:
            raise Refusal("NOT_FOUND", f"Servable not found for request: Latest({model})")

    def signature(self, name: str, unknown: Refusal) -> Signature:
        self.asked.append(name)
        found = next((item for item in self.signatures if item.name == name), None)
        if found is None:
            raise unknown
        return found


def _tensor(value: Any) -> framework_pb2.TensorProto:
    shape, flat = [], [value]
    while isinstance(flat[0], list):
        shape.append(len(flat[0]))
        flat = flat[0]
    tensor = framework_pb2.TensorProto()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if isinstance(flat[0], str):
        tensor.dtype = 7
        tensor.string_val.extend(item.encode() for item in flat)
    else:
        tensor.dtype = 1
        tensor.float_val.extend(flat)
    return tensor


class ForeignGrpc(grpc.GenericRpcHandler):
    """The gRPC side: the wording is TensorFlow Serving's."""

    def __init__(self, model: ForeignModel) -> None:
        self._model = model
        self._methods = {
            "Predict": (self._predict, serving_pb2.PredictRequest),
            "GetModelMetadata": (self._metadata, serving_pb2.GetModelMetadataRequest),
            "GetModelStatus": (self._status, serving_pb2.GetModelStatusRequest),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method.rpartition("/")[2] not in self._methods:
            return None
        method, kind = self._methods[details.method.rpartition("/")[2]]

        def answer(request: Any, context: grpc.ServicerContext) -> bytes:
            try:
                self._model.meet(request.model_spec.name, context.invocation_metadata())
                context.set_trailing_metadata(tuple(self._model.headers.items()))
                return bytes(method(request).SerializeToString())
            except Refusal as refusal:
                context.set_trailing_metadata(tuple(refusal.headers.items()))
                context.abort(grpc.StatusCode[refusal.code], refusal.text)

        return grpc.unary_unary_rpc_method_handler(answer, kind.FromString)

    def _predict(self, request: Any) -> Any:
        name = request.model_spec.signature_name
        text = f'Serving signature key "{name}" not found.'
        signature = self._model.signature(name, Refusal("FAILED_PRECONDITION", text))
        sent, known = set(request.inputs), {spec.name for spec in signature.inputs}
        if not known - signature.optional <= sent <= known:
            text = f"input size does not match signature: 1!=1 len({sent}) != len({known})."
            raise Refusal("INVALID_ARGUMENT", text)
        response = serving_pb2.PredictResponse()
        response.model_spec.version.value = VERSION
        for output, value in self._model.answers[name].items():
            response.outputs[output].CopyFrom(_tensor(value))
        return response

    def _metadata(self, _: Any) -> Any:
        self._model.metadata_calls += 1
        signatures = serving_pb2.SignatureDefMap()
        for signature in self._model.signatures:
            definition = signatures.signature_def[signature.name]
            definition.method_name = f"tensorflow/serving/{signature.method}"
            for name in signature.optional:
                definition.defaults[name].SetInParent()
            for specs, infos in (
                (signature.inputs, definition.inputs),
                (signature.outputs, definition.outputs),
            ):
                for spec in specs:
                    infos[spec.name].dtype = spec.dtype.tf_number  # type: ignore[assignment]
                    infos[spec.name].tensor_shape.SetInParent()
                    for size in spec.shape or ():
                        infos[spec.name].tensor_shape.dim.add(size=-1 if size is None else size)
        signatures.signature_def["__saved_model_init_op"].outputs["op"].dtype = 0  # type: ignore[assignment]
        response = serving_pb2.GetModelMetadataResponse()
        response.model_spec.version.value = VERSION
        response.metadata["signature_def"].value = signatures.SerializeToString()
        return response

    def _status(self, _: Any) -> Any:
        response = serving_pb2.GetModelStatusResponse()
        row = response.model_version_status.add(version=VERSION)
        row.state = serving_pb2.ModelVersionStatus.State.Value(self._model.state)
        row.status.error_message = self._model.error
        return response


def _rest_predict(model: ForeignModel, body: Any) -> Any:
    name = body["signature_name"]
    text = f'Serving signature name: "{name}" not found in signature def'
    signature = model.signature(name, Refusal("INVALID_ARGUMENT", text))
    for spec in signature.inputs:
        if spec.name not in {*body["inputs"], *signature.optional}:
            text = f"Missing named input: {spec.name} in 'inputs' object."
            raise Refusal("INVALID_ARGUMENT", text)
    answer = model.answers[name]
    return {"outputs": next(iter(answer.values())) if len(answer) == 1 else answer}


def _rest_metadata(model: ForeignModel) -> Any:
    model.metadata_calls += 1

    def infos(specs: Any) -> Any:
        return {
            spec.name: {
                "dtype": spec.dtype.tf_name,
                "tensor_shape": {
                    "dim": [{"size": str(-1 if s is None else s)} for s in spec.shape]
                },
            }
            for spec in specs
        }

    signatures = {
        s.name: {
            "inputs": infos(s.inputs),
            "outputs": infos(s.outputs),
            "method_name": f"tensorflow/serving/{s.method}",
            "defaults": {name: {} for name in s.optional},
        }
        for s in model.signatures
    }
    signatures["__saved_model_init_op"] = {"inputs": {}, "outputs": {"op": {"dtype": "DT_INVALID"}}}
    spec = {"name": MODEL, "signature_name": "", "version": str(VERSION)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}


def _rest_status(model: ForeignModel) -> Any:
    status = {"error_code": "OK", "error_message": model.error}
    row = {"version": str(VERSION), "state": model.state, "status": status}
    return {"model_version_status": [row]}


def _rest_handler(model: ForeignModel) -> type[BaseHTTPRequestHandler]:
    class ForeignRest(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(_rest_metadata if self.path.endswith("/metadata") else _rest_status)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(lambda model: _rest_predict(model, body))

        def _answer(self, method: Callable[[ForeignModel], Any]) -> None:
            if not self.path.startswith("/v1/models/"):
                self.send_error(404)
                return
            name = self.path.split("/")[3].partition(":")[0]
            try:
                model.meet(name, self.headers.items())
                status, data, headers = 200, method(model), model.headers
            except Refusal as refusal:
                status, data, headers = refusal.http, {"error": refusal.text}, refusal.headers
            body = json.dumps(data).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    return ForeignRest


@pytest.fixture(params=["grpc", "rest"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[[ForeignModel], str]]:
    """`serve(model)` is the endpoint of a foreign server, once for each protocol."""
    stops: list[Callable[[], object]] = []

    def over_grpc(model: ForeignModel) -> str:
        server = grpc.server(ThreadPoolExecutor(4), handlers=[ForeignGrpc(model)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stops.append(lambda: server.stop(None).wait())
        return f"127.0.0.1:{port}"

    def over_rest(model: ForeignModel) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _rest_handler(model))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        stops.extend([server.shutdown, server.server_close, thread.join])
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield over_grpc if request.param == "grpc" else over_rest
    for stop in stops:
        stop()


@pytest.fixture
def foreign_model() -> type[ForeignModel]:
    """The class of what a foreign server offers."""
    return ForeignModel


@pytest.fixture
def refusal() -> type[Refusal]:
    """The class of what a foreign server refuses a call with."""
    return Refusal
