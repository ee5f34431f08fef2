"""A simulated server that speaks the Open Inference Protocol and nothing else."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import grpc

from mlserve.wire.proto import inference_extensions_pb2, inference_pb2
from tests.harness.foreign import MODEL, Method, Refusal, Response

SIZE_HEADER = "Inference-Header-Content-Length"
Declared = tuple[str, str, list[int]]
FIELDS = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "INT32": "int_contents"}
CODES = {"FP32": "f", "INT32": "i"}


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
    """A received inference request, in any encoding."""

    input: str
    shape: list[int]
    image: bytes
    parameters: dict[str, Any]
    outputs: dict[str, dict[str, Any]]
    deadline: float


@dataclass
class OipModel:
    """The behaviour of the server. `gone` is the (status, body) of its missing REST paths.

    `is_raw`: it answers in raw contents over gRPC, in binary data over REST. `reads_binary` is
    False for a REST server without that extension: it refuses such a request with `binary_refusal`,
    and its metadata lists its extensions, if `says_extensions`. `v1` is the (status, body) of
    another API at TensorFlow Serving's paths. `index` holds the names and states of the repository
    index; None means that the server has none.
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
            raise Refusal("NOT_FOUND", f"Request for unknown model: '{model}' is not found")

    def grpc_method(self, path: str) -> Method | None:
        """Return the methods of GRPCInferenceService; other services are unknown."""
        service, _, name = path.rpartition("/")
        if service != "/inference.GRPCInferenceService":
            self.calls.append("tfs")
            return None
        methods = {
            "ModelInfer": (self._infer, inference_pb2.ModelInferRequest),
            "ModelMetadata": (self._metadata, inference_pb2.ModelMetadataRequest),
            "ModelReady": (self._ready, inference_pb2.ModelReadyRequest),
        }
        if self.index is not None:
            kind = inference_extensions_pb2.RepositoryIndexRequest
            methods["RepositoryIndex"] = (self._index, kind)
        if name not in methods:
            return None
        method, kind = methods[name]

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            named = {"ModelInfer": "model_name", "RepositoryIndex": ""}.get(name, "name")
            self.meet(getattr(request, named) if named else MODEL, name)
            return method(request, context)

        return answer, kind

    def rest_response(self, path: str, body: bytes, headers: Any) -> Response:
        """Return the response at a path of the protocol, or of the server itself."""
        parts = path.strip("/").split("/")
        if parts[:2] != ["v2", "models"]:
            return *_beside_models(self, parts), {}
        verb = parts[-1] if parts[-1] in ("infer", "ready") else "metadata"
        self.meet(parts[2], verb)
        return _rest_reply(self, verb, body, headers)

    def _infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        (tensor,), (raw,) = request.inputs, request.raw_input_contents
        assert struct.unpack_from("<I", raw)[0] == len(raw) - 4
        outputs = {item.name: _values(item.parameters) for item in request.outputs}
        parameters, left = _values(request.parameters), context.time_remaining()
        asked = Asked(tensor.name, list(tensor.shape), raw[4:], parameters, outputs, left)
        self.asked.append(asked)
        response = inference_pb2.ModelInferResponse(model_name=MODEL, model_version="7")
        for output in self.answer:
            row = response.outputs.add(
                name=output.name, datatype=output.datatype, shape=output.shape
            )
            if self.is_raw:
                response.raw_output_contents.append(output.raw())
                continue
            values = [v.encode() if isinstance(v, str) else v for v in output.values]
            getattr(row.contents, FIELDS[output.datatype]).extend(values)
        return response

    def _metadata(self, _: Any, context: object) -> Any:
        response = inference_pb2.ModelMetadataResponse(name=MODEL, versions=self.versions)
        for specs, rows in (
            (self.inputs, response.inputs),
            (self.outputs, response.outputs),
        ):
            for name, datatype, shape in specs:
                rows.add(name=name, datatype=datatype, shape=shape)
        return response

    def _index(self, _: Any, context: object) -> Any:
        response = inference_extensions_pb2.RepositoryIndexResponse()
        for name, state in self.index or ():
            response.models.add(name=name, version="7", state=state)
        return response

    def _ready(self, _: Any, context: object) -> Any:
        return inference_pb2.ModelReadyResponse(ready=self.is_ready)


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


def _rest_reply(model: OipModel, verb: str, body: bytes, headers: Any) -> Response:
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
    """Return the response at a path outside `/v2/models`."""
    about = _about_server(model, parts)
    if about is not None:
        return 200, json.dumps(about).encode()
    if parts == ["v2"]:
        return model.gone
    model.calls.append("tfs")
    return model.v1 if model.v1 and parts[-1] != "metadata" else model.gone


def _about_server(model: OipModel, parts: list[str]) -> Any:
    """Return the server's description of itself at that path; None for an unknown path."""
    if parts == ["v2", "repository", "index"] and model.index is not None:
        model.calls.append("RepositoryIndex")
        return [{"name": name, "state": state} for name, state in model.index]
    if parts == ["v2"] and model.says_extensions:
        extensions = ["binary_tensor_data"] if model.reads_binary else []
        return {"name": "stranger", "version": "1", "extensions": extensions}
    return None
