"""A simulated server that answers as TensorFlow Serving does, word for word."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from mlserve.tensors import Signature
from mlserve.wire.proto import framework_pb2, serving_pb2
from tests.harness.foreign import MODEL, Method, Refusal, Response

VERSION = 7


@dataclass
class TfsModel:
    """The behaviour of the server. `answers`: each signature's outputs, as REST would print them.

    Every call fails with `refusal`; before that, the first calls fail with `refusals`. `asked`
    lists the requested signatures, `met` the headers or metadata of every call.
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

    def grpc_method(self, path: str) -> Method | None:
        """Return the methods of PredictionService and ModelService that the client uses."""
        methods = {
            "Predict": (self._predict, serving_pb2.PredictRequest),
            "GetModelMetadata": (self._metadata, serving_pb2.GetModelMetadataRequest),
            "GetModelStatus": (self._status, serving_pb2.GetModelStatusRequest),
        }
        name = path.rpartition("/")[2]
        if name not in methods:
            return None
        method, kind = methods[name]

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self.meet(request.model_spec.name, context.invocation_metadata())
            context.set_trailing_metadata(tuple(self.headers.items()))
            return method(request)

        return answer, kind

    def rest_response(self, path: str, body: bytes, headers: Any) -> Response:
        """Return the response at a path below `/v1/models/`."""
        if not path.startswith("/v1/models/"):
            return 404, b"<html><h1>Not Found</h1></html>", {"Content-Type": "text/html"}
        self.meet(path.split("/")[3].partition(":")[0], headers.items())
        if body:
            answer = _rest_predict(self, json.loads(body))
        elif path.endswith("/metadata"):
            answer = _rest_metadata(self)
        else:
            answer = _rest_status(self)
        return 200, json.dumps(answer).encode(), self.headers

    def signature(self, name: str, unknown: Refusal) -> Signature:
        self.asked.append(name)
        found = next((item for item in self.signatures if item.name == name), None)
        if found is None:
            raise unknown
        return found

    def _predict(self, request: Any) -> Any:
        name = request.model_spec.signature_name
        text = f'Serving signature key "{name}" not found.'
        signature = self.signature(name, Refusal("FAILED_PRECONDITION", text))
        sent, known = set(request.inputs), {spec.name for spec in signature.inputs}
        if not known - signature.optional <= sent <= known:
            text = f"input size does not match signature: 1!=1 len({sent}) != len({known})."
            raise Refusal("INVALID_ARGUMENT", text)
        response = serving_pb2.PredictResponse()
        response.model_spec.version.value = VERSION
        for output, value in self.answers[name].items():
            response.outputs[output].CopyFrom(_tensor(value))
        return response

    def _metadata(self, _: Any) -> Any:
        self.metadata_calls += 1
        signatures = serving_pb2.SignatureDefMap()
        for signature in self.signatures:
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
        row.state = serving_pb2.ModelVersionStatus.State.Value(self.state)
        row.status.error_message = self.error
        return response


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


def _rest_predict(model: TfsModel, body: Any) -> Any:
    name = body["signature_name"]
    text = f'Serving signature name: "{name}" not found in signature def'
    signature = model.signature(name, Refusal("INVALID_ARGUMENT", text))
    for spec in signature.inputs:
        if spec.name not in {*body["inputs"], *signature.optional}:
            text = f"Missing named input: {spec.name} in 'inputs' object."
            raise Refusal("INVALID_ARGUMENT", text)
    answer = model.answers[name]
    return {"outputs": next(iter(answer.values())) if len(answer) == 1 else answer}


def _rest_metadata(model: TfsModel) -> Any:
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


def _rest_status(model: TfsModel) -> Any:
    status = {"error_code": "OK", "error_message": model.error}
    row = {"version": str(VERSION), "state": model.state, "status": status}
    return {"model_version_status": [row]}
