"""The Open Inference Protocol v2 over gRPC: messages in, messages out, no I/O."""

from __future__ import annotations

from mlserve.client.adapter import Call, ImageRequest, ModelRef, Reply, SignatureChoice, number_of
from mlserve.client.answers import Answer, Column, ModelMetadata
from mlserve.client.codecs import column, element_count, text
from mlserve.client.oip import DTYPES, described, microseconds, raw_column
from mlserve.client.protobuf import parse_message
from mlserve.client.refusals import Unreadable
from mlserve.wire.headers import SIGNATURES, own_header
from mlserve.wire.proto import inference_pb2
from mlserve.wire.services import INFERENCE, method_path
from mlserve.wire.tensors import OIP_FIELDS, pack_string


class OipGrpc:
    """The adapter for `inference.GRPCInferenceService`."""

    def predict_call(
        self, model: ModelRef, choice: SignatureChoice, request: ImageRequest, seconds: float
    ) -> Call:
        message = inference_pb2.ModelInferRequest(
            model_name=model.name,
            model_version=_version(model),
            raw_input_contents=[pack_string(request.image)],
        )
        message.inputs.add(name=choice.input, datatype="BYTES", shape=choice.shape)
        message.parameters["timeout"].int64_param = microseconds(seconds)
        if choice.signature:
            message.parameters["signature"].string_param = choice.signature
        if choice.scores:
            wanted = message.outputs.add(name=choice.scores)
            wanted.parameters["classification"].int64_param = request.count
        return Call(method_path(INFERENCE, "ModelInfer"), message.SerializeToString())

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
        return Call(method_path(INFERENCE, "ModelMetadata"), request.SerializeToString())

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        message = parse_message(inference_pb2.ModelMetadataResponse, reply.body)
        inputs = [(spec.name, spec.datatype, spec.shape) for spec in message.inputs]
        outputs = [(spec.name, spec.datatype, spec.shape) for spec in message.outputs]
        selectable = tuple(filter(None, own_header(reply.headers, SIGNATURES).split(",")))
        return described(model, tuple(message.versions), selectable, inputs, outputs)

    def read_versions(self, reply: Reply) -> tuple[str, ...]:
        return tuple(parse_message(inference_pb2.ModelMetadataResponse, reply.body).versions)

    def extensions_call(self) -> Call | None:
        return None  # raw contents are part of the protocol itself

    def read_extensions(self, reply: Reply) -> frozenset[str]:
        return frozenset(parse_message(inference_pb2.ServerMetadataResponse, reply.body).extensions)

    def ready_call(self, model: ModelRef, version: str) -> Call:
        request = inference_pb2.ModelReadyRequest(name=model.name, version=version)
        return Call(method_path(INFERENCE, "ModelReady"), request.SerializeToString())

    def read_ready(self, reply: Reply) -> bool:
        return parse_message(inference_pb2.ModelReadyResponse, reply.body).ready


def _version(model: ModelRef) -> str:
    return "" if model.version is None else str(model.version)


def _raw(output: inference_pb2.ModelInferResponse.InferOutputTensor, raw: bytes) -> Column:
    return raw_column(output.name, output.datatype, tuple(output.shape), raw)


def _typed(output: inference_pb2.ModelInferResponse.InferOutputTensor) -> Column:
    shape = tuple(output.shape)
    dtype = DTYPES.get(output.datatype)
    if dtype is None or dtype not in OIP_FIELDS:
        return Column(shape, ())
    values = getattr(output.contents, OIP_FIELDS[dtype])
    if len(values) != element_count(output.name, shape):
        raise Unreadable(
            f"an output {output.name!r} of shape {list(shape)}", f"{len(values)} values"
        )
    return column(output.name, shape, tuple(text(v) if isinstance(v, bytes) else v for v in values))
