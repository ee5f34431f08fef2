"""TensorFlow Serving v1 over gRPC: messages in, messages out, no I/O."""

from __future__ import annotations

import struct

from mlserve.client.adapter import Call, ImageRequest, ModelRef, Reply, SignatureChoice
from mlserve.client.answers import Answer, Column, ModelMetadata, Value, VersionStatus
from mlserve.client.codecs import STRUCT_CODES, column, element_count, text
from mlserve.client.protobuf import parse_message
from mlserve.client.refusals import Unreadable
from mlserve.tensors import DType, Signature, TensorSpec, method_of
from mlserve.wire.proto import framework_pb2, serving_pb2
from mlserve.wire.services import MODEL, PREDICTION, method_path
from mlserve.wire.tensors import TENSOR_PROTO_FIELDS

_SIGNATURES = "signature_def"
_READ = (DType.BYTES, DType.FLOAT32, DType.FLOAT64, DType.INT32, DType.INT64)
"""Types of labels, scores and indices; for outputs of other types, only the shape is read."""


class TfsGrpc:
    """The adapter for `tensorflow.serving.PredictionService` and `ModelService`."""

    def predict_call(
        self, model: ModelRef, choice: SignatureChoice, request: ImageRequest, seconds: float
    ) -> Call:
        message = serving_pb2.PredictRequest(model_spec=_spec(model))
        message.model_spec.signature_name = choice.signature
        tensor = message.inputs[choice.input]
        tensor.dtype = DType.BYTES.tf_number  # type: ignore[assignment]
        tensor.string_val.append(request.image)
        for size in choice.shape:
            tensor.tensor_shape.dim.add(size=size)
        return Call(method_path(PREDICTION, "Predict"), message.SerializeToString())

    def read_answer(self, reply: Reply) -> Answer:
        response = parse_message(serving_pb2.PredictResponse, reply.body)
        spec = response.model_spec
        version = spec.version.value if spec.HasField("version") else None
        return Answer({n: _column(n, t) for n, t in response.outputs.items()}, version)

    def metadata_call(self, model: ModelRef) -> Call:
        request = serving_pb2.GetModelMetadataRequest(
            model_spec=_spec(model), metadata_field=[_SIGNATURES]
        )
        return Call(method_path(PREDICTION, "GetModelMetadata"), request.SerializeToString())

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        response = parse_message(serving_pb2.GetModelMetadataResponse, reply.body)
        packed = response.metadata[_SIGNATURES].value
        signatures = parse_message(serving_pb2.SignatureDefMap, packed).signature_def
        spec = response.model_spec
        version = spec.version.value if spec.HasField("version") else model.version
        found = [_signature(name, definition) for name, definition in sorted(signatures.items())]
        return ModelMetadata(model.name, version, tuple(s for s in found if s is not None))

    def status_call(self, model: ModelRef) -> Call:
        request = serving_pb2.GetModelStatusRequest(model_spec=_spec(model))
        return Call(method_path(MODEL, "GetModelStatus"), request.SerializeToString())

    def read_status(self, reply: Reply) -> tuple[VersionStatus, ...]:
        rows = parse_message(serving_pb2.GetModelStatusResponse, reply.body).model_version_status
        latest_first = sorted(rows, key=lambda row: -row.version)
        return tuple(
            VersionStatus(r.version, _state(r), r.status.error_message) for r in latest_first
        )


def _spec(model: ModelRef) -> serving_pb2.ModelSpec:
    spec = serving_pb2.ModelSpec(name=model.name)
    if model.version is not None:
        spec.version.value = model.version
    return spec


def _state(row: serving_pb2.ModelVersionStatus) -> str:
    value = row.DESCRIPTOR.enum_types_by_name["State"].values_by_number.get(row.state)
    return value.name if value else "UNKNOWN"


def _signature(name: str, definition: framework_pb2.SignatureDef) -> Signature | None:
    """Return the signature; None if a type cannot be sent in a request, as with initializers."""
    try:
        inputs = tuple(_tensor_spec(n, info) for n, info in sorted(definition.inputs.items()))
        outputs = tuple(_tensor_spec(n, info) for n, info in sorted(definition.outputs.items()))
    except ValueError:
        return None
    return Signature(
        name, inputs, outputs, frozenset(definition.defaults), method_of(definition.method_name)
    )


def _tensor_spec(name: str, info: framework_pb2.TensorInfo) -> TensorSpec:
    shape = info.tensor_shape
    sizes = tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    is_known = info.HasField("tensor_shape") and not shape.unknown_rank
    return TensorSpec(name, DType.from_tf_number(info.dtype), sizes if is_known else None)


def _column(name: str, tensor: framework_pb2.TensorProto) -> Column:
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    try:
        dtype = DType.from_tf_number(tensor.dtype)
    except ValueError:
        return Column(shape, ())
    if dtype not in _READ:
        return Column(shape, ())
    return column(name, shape, _values(tensor, dtype, element_count(name, shape)))


def _values(tensor: framework_pb2.TensorProto, dtype: DType, size: int) -> tuple[Value, ...]:
    if tensor.tensor_content and dtype in STRUCT_CODES:
        form = struct.Struct(f"<{size}{STRUCT_CODES[dtype]}")
        if form.size != len(tensor.tensor_content):
            held = f"{len(tensor.tensor_content)} bytes"
            raise Unreadable(f"{size} values in {form.size} bytes", held)
        return form.unpack(tensor.tensor_content)
    sent = getattr(tensor, TENSOR_PROTO_FIELDS[dtype])
    if len(sent) > size:
        raise Unreadable(f"{size} values", f"{len(sent)} values")
    values: list[Value] = [text(v) if isinstance(v, bytes) else v for v in sent]
    # The wire format lets a sender omit repetitions of the last value.
    return tuple(values + values[-1:] * (size - len(values)))
