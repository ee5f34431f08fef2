"""TensorFlow Serving v1 over gRPC: messages in, messages out, no I/O."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from mlserve.client.adapter import Call, InferRequest, ModelRef, Reply
from mlserve.client.answers import Answer, ModelMetadata, VersionStatus
from mlserve.client.codecs import MOST_VALUES, element_count
from mlserve.client.protobuf import parse_message
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor
from mlserve.tensors import DType, Signature
from mlserve.wire.proto import framework_pb2, serving_pb2
from mlserve.wire.services import MODEL, PREDICTION, method_path
from mlserve.wire.signature_defs import read_signature
from mlserve.wire.tensors import COMPLEX, TENSOR_PROTO_FIELDS, item_size

_SIGNATURES = "signature_def"
_IN_PARTS = {
    DType.FLOAT16: "H",
    DType.BFLOAT16: "H",
    DType.COMPLEX64: "f",
    DType.COMPLEX128: "d",
}
"""`struct` format of what the fields of these types hold, which is not their elements."""


class TfsGrpc:
    """The adapter for `tensorflow.serving.PredictionService` and `ModelService`."""

    def infer_call(self, model: ModelRef, request: InferRequest, seconds: float) -> Call:
        message = serving_pb2.PredictRequest(model_spec=_spec(model), output_filter=request.outputs)
        message.model_spec.signature_name = request.signature
        for name, tensor in request.inputs.items():
            _write(tensor, message.inputs[name])
        return Call(method_path(PREDICTION, "Predict"), message.SerializeToString())

    def read_answer(self, reply: Reply, *, is_bounded: bool = True) -> Answer:
        response = parse_message(serving_pb2.PredictResponse, reply.body, is_bounded=is_bounded)
        spec, most = response.model_spec, MOST_VALUES if is_bounded else None
        version = spec.version.value if spec.HasField("version") else None
        return Answer({n: _output(n, t, most) for n, t in response.outputs.items()}, version)

    def metadata_call(self, model: ModelRef, signature: str = "") -> Call:
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
    """Return the signature; None if it cannot be asked, as with initializers."""
    try:
        return read_signature(name, definition)
    except ValueError:
        return None


def _write(tensor: Tensor, proto: framework_pb2.TensorProto) -> None:
    assert tensor.dtype is not None  # only an answer may leave it out
    proto.dtype = tensor.dtype.tf_number  # type: ignore[assignment]
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    if isinstance(tensor.data, bytes):
        proto.tensor_content = tensor.data
    else:
        proto.string_val.extend(tensor.elements)


def _output(name: str, proto: framework_pb2.TensorProto, most: int | None) -> Tensor:
    """Return an output; without elements if its type is not supported. Raises Unreadable."""
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    try:
        dtype = DType.from_tf_number(proto.dtype)
    except ValueError:
        return Tensor(shape, ())
    size = element_count(name, shape, most)
    if proto.tensor_content and dtype is not DType.BYTES:
        if len(proto.tensor_content) != size * item_size(dtype):
            held = f"{len(proto.tensor_content)} bytes"
            raise Unreadable(f"{size} values in {size * item_size(dtype)} bytes", held)
        return Tensor(shape, proto.tensor_content, dtype)
    parts = size * (2 if dtype in COMPLEX else 1)
    values = _repeated(getattr(proto, TENSOR_PROTO_FIELDS[dtype]), parts)
    return Tensor(shape, _as_bytes(dtype, values) if dtype in _IN_PARTS else values, dtype)


def _repeated(sent: Sequence[Any], size: int) -> Sequence[Any]:
    """Return the elements that were sent; the wire format lets a sender omit the last, if equal."""
    missing = size - len(sent)
    if not missing:
        return sent
    if missing < 0 or not sent or size > MOST_VALUES:
        raise Unreadable(f"{size} values", f"{len(sent)} values")
    return [*sent, *repeat(sent[-1], missing)]


def _as_bytes(dtype: DType, values: Sequence[Any]) -> bytes:
    """Return the raw bytes of a type whose field holds bits, or both parts of complex numbers."""
    try:
        return struct.pack(f"<{len(values)}{_IN_PARTS[dtype]}", *values)
    except struct.error as error:
        raise Unreadable(f"an output of {dtype.label}", str(error)) from error
