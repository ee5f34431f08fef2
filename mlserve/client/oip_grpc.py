"""The Open Inference Protocol v2 over gRPC: messages in, messages out, no I/O."""

from __future__ import annotations

import math

from mlserve.client.adapter import Call, InferRequest, ModelRef, Reply, ServerAbout, number_of
from mlserve.client.answers import Answer, ModelMetadata
from mlserve.client.codecs import MOST_VALUES, checked
from mlserve.client.oip import (
    DTYPES,
    datatype_of,
    described,
    microseconds,
    raw_data,
    raw_output,
)
from mlserve.client.protobuf import parse_message
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor
from mlserve.errors import UsageError, shortened
from mlserve.wire.headers import OPTIONAL, SIGNATURE, SIGNATURES, own_header
from mlserve.wire.proto import inference_pb2
from mlserve.wire.services import INFERENCE, method_path
from mlserve.wire.tensors import OIP_FIELDS


class OipGrpc:
    """The adapter for `inference.GRPCInferenceService`."""

    def infer_call(self, model: ModelRef, request: InferRequest, seconds: float) -> Call:
        message = inference_pb2.ModelInferRequest(
            model_name=model.name,
            model_version=_version(model),
            raw_input_contents=[raw_data(tensor) for tensor in request.inputs.values()],
        )
        for name, tensor in request.inputs.items():
            message.inputs.add(name=name, datatype=datatype_of(tensor), shape=tensor.shape)
        for name in request.outputs:
            message.outputs.add(name=name)
        if seconds < math.inf:
            message.parameters["timeout"].int64_param = microseconds(seconds)
        if request.signature:
            message.parameters["signature"].string_param = request.signature
        if request.classes:
            name, count = request.classes
            wanted = message.outputs.add(name=name)
            wanted.parameters["classification"].int64_param = count
        return Call(method_path(INFERENCE, "ModelInfer"), message.SerializeToString())

    def read_answer(self, reply: Reply, *, is_bounded: bool = True) -> Answer:
        response = parse_message(
            inference_pb2.ModelInferResponse, reply.body, is_bounded=is_bounded
        )
        raw, most = response.raw_output_contents, MOST_VALUES if is_bounded else None
        if raw and len(raw) != len(response.outputs):
            raise Unreadable(f"{len(response.outputs)} outputs", f"{len(raw)} raw contents")
        outputs = {
            output.name: _raw(output, raw[index], most) if raw else _typed(output, most)
            for index, output in enumerate(response.outputs)
        }
        return Answer(outputs, number_of(response.model_version))

    def metadata_call(self, model: ModelRef, signature: str = "") -> Call:
        request = inference_pb2.ModelMetadataRequest(name=model.name, version=_version(model))
        if not (signature.isascii() and signature.isprintable()):
            raise UsageError(
                f"the name of the signature {shortened(signature)!r} does not fit into a header of "
                "gRPC, which is ASCII",
                hint="ask over REST, {protocol rest}, or {api tfs}",
            )
        headers = {SIGNATURE: signature} if signature else {}
        return Call(method_path(INFERENCE, "ModelMetadata"), request.SerializeToString(), headers)

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        message = parse_message(inference_pb2.ModelMetadataResponse, reply.body)
        inputs = [(spec.name, spec.datatype, spec.shape) for spec in message.inputs]
        outputs = [(spec.name, spec.datatype, spec.shape) for spec in message.outputs]
        selectable, optional = (_names(reply, key) for key in (SIGNATURES, OPTIONAL))
        return described(model, tuple(message.versions), selectable, inputs, outputs, optional)

    def read_versions(self, reply: Reply) -> tuple[str, ...]:
        return tuple(parse_message(inference_pb2.ModelMetadataResponse, reply.body).versions)

    def about_call(self) -> Call | None:
        return None  # raw contents are part of the protocol itself

    def read_about(self, reply: Reply) -> ServerAbout:
        about = parse_message(inference_pb2.ServerMetadataResponse, reply.body)
        return ServerAbout(about.name, frozenset(about.extensions))

    def ready_call(self, model: ModelRef, version: str) -> Call:
        request = inference_pb2.ModelReadyRequest(name=model.name, version=version)
        return Call(method_path(INFERENCE, "ModelReady"), request.SerializeToString())

    def read_ready(self, reply: Reply) -> bool:
        return parse_message(inference_pb2.ModelReadyResponse, reply.body).ready


def _names(reply: Reply, key: str) -> tuple[str, ...]:
    return tuple(filter(None, own_header(reply.headers, key).split(",")))


def _version(model: ModelRef) -> str:
    return "" if model.version is None else str(model.version)


def _raw(
    output: inference_pb2.ModelInferResponse.InferOutputTensor, raw: bytes, most: int | None
) -> Tensor:
    return raw_output(output.name, output.datatype, tuple(output.shape), raw, most)


def _typed(output: inference_pb2.ModelInferResponse.InferOutputTensor, most: int | None) -> Tensor:
    shape = tuple(output.shape)
    dtype = DTYPES.get(output.datatype)
    if dtype is None or dtype not in OIP_FIELDS:
        return Tensor(shape, ())
    values = getattr(output.contents, OIP_FIELDS[dtype])
    return checked(output.name, shape, values, dtype, most)
