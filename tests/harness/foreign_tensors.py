"""A simulated server of the Open Inference Protocol that answers each input `x` as the output `x`.

What it reads and writes is read and written here, independently of mlserve's own codecs.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from mlserve.wire.proto import inference_pb2
from tests.harness.foreign import MODEL, Method, Refusal, Response

SIZE_HEADER = "Inference-Header-Content-Length"
Declared = tuple[str, str, list[int]]
CODES = {"FP32": "<f4", "FP64": "<f8", "INT8": "|i1", "INT64": "<i8", "BOOL": "|b1", "FP16": "<f2"}
FIELDS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT8": "int_contents",
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
}


@dataclass
class TensorEcho:
    """The behaviour of the server.

    `inputs` and `outputs` are what its metadata declares. `is_raw`: it answers in raw contents over
    gRPC, in binary data over REST, if that is asked for. `reads_binary` is False for a REST server
    that reads only JSON, and says so. `nests`: its JSON has nested lists. `content_type` is that of
    its strings in JSON; base64 encodes them. `asked` are the parameters and wanted outputs of each
    request, `sent` the tensors as they came, `calls` the names of all calls.
    """

    inputs: list[Declared]
    outputs: list[Declared] = field(default_factory=list)
    is_raw: bool = True
    reads_binary: bool = True
    nests: bool = False
    content_type: str | None = None
    name: str = "stranger"
    version: str = "7"
    refusals: list[Refusal] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def grpc_method(self, path: str) -> Method | None:
        service, _, name = path.rpartition("/")
        methods = {
            "ModelInfer": (self._infer, inference_pb2.ModelInferRequest),
            "ModelMetadata": (self._metadata, inference_pb2.ModelMetadataRequest),
        }
        if service != "/inference.GRPCInferenceService" or name not in methods:
            return None
        method, kind = methods[name]

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self._meet(name)
            return method(request)

        return answer, kind

    def rest_response(self, path: str, body: bytes, headers: Any) -> Response:
        if path == "/v2":
            extensions = ["binary_tensor_data"] if self.reads_binary else []
            return (
                200,
                json.dumps({"name": self.name, "version": "1", "extensions": extensions}).encode(),
                {},
            )
        if not path.startswith(f"/v2/models/{MODEL}"):
            return 404, b'{"detail":"Not Found"}', {}
        if not path.endswith("/infer"):
            self._meet("ModelMetadata")
            return 200, json.dumps(self._described()).encode(), {}
        self._meet("ModelInfer")
        return 200, *self._infer_rest(body, headers)

    def _meet(self, call: str) -> None:
        self.calls.append(call)
        if call == "ModelInfer" and self.refusals:
            raise self.refusals.pop(0)

    def _described(self) -> dict[str, Any]:
        keys = ("name", "datatype", "shape")
        inputs, outputs = (
            [dict(zip(keys, spec, strict=True)) for spec in specs]
            for specs in (self.inputs, self.outputs)
        )
        return {"name": MODEL, "versions": [self.version], "inputs": inputs, "outputs": outputs}

    def _metadata(self, _: Any) -> Any:
        about = self._described()
        return inference_pb2.ModelMetadataResponse(
            name=MODEL, versions=about["versions"], inputs=about["inputs"], outputs=about["outputs"]
        )

    def _infer(self, request: Any) -> Any:
        self.asked.append({"outputs": [item.name for item in request.outputs]})
        assert len(request.inputs) == len(request.raw_input_contents)
        self.sent.append({})
        response = inference_pb2.ModelInferResponse(model_name=MODEL, model_version=self.version)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            shape = list(tensor.shape)
            self.sent[-1][tensor.name] = (tensor.datatype, shape, raw)
            row = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
            if self.is_raw:
                response.raw_output_contents.append(raw)
            else:
                values = unpacked(tensor.datatype, raw)
                getattr(row.contents, FIELDS[tensor.datatype]).extend(values)
        return response

    def _infer_rest(self, body: bytes, headers: Any) -> tuple[bytes, dict[str, str]]:
        size = headers.get(SIZE_HEADER)
        request = json.loads(body[: int(size)] if size else body)
        wants_binary = request["parameters"]["binary_data_output"] and self.is_raw
        self.asked.append(request["parameters"] | {"outputs": request.get("outputs", [])})
        rows, tail, at = [], b"", int(size or 0)
        self.sent.append({})
        for tensor in request["inputs"]:
            parameters = tensor.get("parameters", {})
            if "binary_data_size" in parameters:
                assert self.reads_binary
                raw = body[at : at + parameters["binary_data_size"]]
                at += len(raw)
                values = unpacked(tensor["datatype"], raw)
            else:
                values = tensor["data"]
                if parameters.get("content_type") == "base64":
                    values = [base64.b64decode(value) for value in values]
            self.sent[-1][tensor["name"]] = (tensor["datatype"], tensor["shape"], tensor)
            row = {key: tensor[key] for key in ("name", "datatype", "shape")}
            if wants_binary:
                raw = packed(tensor["datatype"], values)
                row["parameters"] = {"binary_data_size": len(raw)}
                tail += raw
            else:
                row |= self._in_json(tensor, values)
            rows.append(row)
        head = json.dumps(
            {"model_name": MODEL, "model_version": self.version, "outputs": rows}
        ).encode()
        return head + tail, {SIZE_HEADER: str(len(head))} if tail else {}

    def _in_json(self, tensor: dict[str, Any], values: Any) -> dict[str, Any]:
        if tensor["datatype"] == "BYTES":
            strings = [v.encode() if isinstance(v, str) else v for v in values]
            if self.content_type == "base64":
                data = [base64.b64encode(value).decode() for value in strings]
                return {"data": data, "parameters": {"content_type": "base64"}}
            return {"data": [value.decode() for value in strings]}
        array = np.array(values)
        return {"data": (array.reshape(tensor["shape"]) if self.nests else array).tolist()}


def unpacked(datatype: str, raw: bytes) -> list[Any]:
    """The values in raw bytes of the protocol."""
    if datatype != "BYTES":
        found: list[Any] = np.frombuffer(raw, CODES[datatype]).tolist()
        return found
    strings, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        strings.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return strings


def packed(datatype: str, values: list[Any]) -> bytes:
    """The raw bytes of these values."""
    if datatype != "BYTES":
        return np.array(values, CODES[datatype]).tobytes()
    strings = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in strings)
