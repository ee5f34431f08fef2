"""The Open Inference Protocol v2 over gRPC: messages in, messages out, no I/O."""

from __future__ import annotations

from mlserve.client.adapter import (
    Answer,
    Call,
    Column,
    ModelRef,
    Question,
    Reply,
    SignatureChoice,
    number_of,
)
from mlserve.client.answers import ModelMetadata
from mlserve.client.codecs import column, element_count, text
from mlserve.client.oip import described, microseconds, packed, raw_column
from mlserve.client.protobuf import parse_message
from mlserve.client.refusals import Unreadable
from mlserve.wire.proto import inference_pb2

_SERVICE = "/inference.GRPCInferenceService/"
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class OipGrpc:
    """The adapter for `inference.GRPCInferenceService`."""

    def predict_call(
        self, model: ModelRef, plan: SignatureChoice, question: Question, seconds: float
    ) -> Call:
        request = inference_pb2.ModelInferRequest(
            model_name=model.name,
            model_version=_version(model),
            raw_input_contents=[packed(question.image)],
        )
        request.inputs.add(name=plan.input, datatype="BYTES", shape=plan.shape)
        request.parameters["timeout"].int64_param = microseconds(seconds)
        if plan.signature:
            request.parameters["signature"].string_param = plan.signature
        if plan.scores:
            wanted = request.outputs.add(name=plan.scores)
            wanted.parameters["classification"].int64_param = question.count
        return Call(_SERVICE + "ModelInfer", request.SerializeToString())

    def read_answer(self, reply: Reply) -> Answer:
        response = parse_message(inference_pb2.ModelInferResponse, reply.body)
        raw = response.raw_output_contents
        if raw and len(raw) != len(response.outputs):
            raise Unreadable(f"{len(response.outputs)} outputs", f"{len(raw)} raw contents")
        outputs = {
            output.name: _raw(output, raw[index]) if raw else _typed(output)
            for index, output in enumerate(response.outputs)
        }
        return Answer(outputs, number_of(response.model_version))

    def metadata_call(self, model: ModelRef) -> Call:
        request = inference_pb2.ModelMetadataRequest(name=model.name, version=_version(model))
        return Call(_SERVICE + "ModelMetadata", request.SerializeToString())

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        said = parse_message(inference_pb2.ModelMetadataResponse, reply.body)
        inputs = [(spec.name, spec.datatype, spec.shape) for spec in said.inputs]
        outputs = [(spec.name, spec.datatype, spec.shape) for spec in said.outputs]
        return described(model, tuple(said.versions), reply.signatures, inputs, outputs)

    def read_versions(self, reply: Reply) -> tuple[str, ...]:
        return tuple(parse_message(inference_pb2.ModelMetadataResponse, reply.body).versions)

    def extensions_call(self) -> Call | None:
        return None  # raw contents belong to the protocol itself

    def read_extensions(self, reply: Reply) -> frozenset[str]:
        return frozenset(parse_message(inference_pb2.ServerMetadataResponse, reply.body).extensions)

    def ready_call(self, model: ModelRef, version: str) -> Call:
        request = inference_pb2.ModelReadyRequest(name=model.name, version=version)
        return Call(_SERVICE + "ModelReady", request.SerializeToString())

    def read_ready(self, reply: Reply) -> bool:
        return parse_message(inference_pb2.ModelReadyResponse, reply.body).ready


def _version(model: ModelRef) -> str:
    return "" if model.version is None else str(model.version)


def _raw(output: inference_pb2.ModelInferResponse.InferOutputTensor, raw: bytes) -> Column:
    return raw_column(output.name, output.datatype, tuple(output.shape), raw)


def _typed(output: inference_pb2.ModelInferResponse.InferOutputTensor) -> Column:
    shape = tuple(output.shape)
    field = _FIELDS.get(output.datatype)
    if field is None:
        return Column(shape, ())
    values = getattr(output.contents, field)
    if len(values) != element_count(output.name, shape):
        raise Unreadable(
            f"an output {output.name!r} of shape {list(shape)}", f"{len(values)} values"
        )
    return column(output.name, shape, tuple(text(v) if isinstance(v, bytes) else v for v in values))
