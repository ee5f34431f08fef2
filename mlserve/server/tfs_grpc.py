"""TensorFlow Serving's gRPC API: PredictionService and ModelService over the engine.

Requests and responses pass gRPC as bytes, so that parsing faults become INVALID_ARGUMENT here and
large responses are written on the worker's thread.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, NotFound, Overloaded
from mlserve.protocols.proto.serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
)
from mlserve.protocols.status import grpc_status
from mlserve.server import tensor_proto
from mlserve.server.boundary import as_known_error, error_text
from mlserve.server.engine import DEFAULT_TIMEOUT, Call, Engine
from mlserve.server.input_check import check_names, check_tensor, find_signature
from mlserve.server.loaded import LoadedVersion
from mlserve.server.repository import Repository
from mlserve.server.signature_def import signature_def_map
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
RANDOM_WEIGHTS_KEY = "mlserve-random-weights"
"""The initial metadata of an answer that means nothing, as the model's weights are random."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Respond = Callable[[bytes, Context], Awaitable[bytes]]
Request = TypeVar("Request", bound=Message)


class TfsGrpc:
    """The methods of the two services; each takes a request's bytes and returns a response's."""

    def __init__(self, engine: Engine, repository: Repository) -> None:
        self._engine = engine
        self._repository = repository

    def services(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What to add to the gRPC server."""
        predict = {"Predict": self.predict, "GetModelMetadata": self.metadata}
        status = {"GetModelStatus": self.status}
        return (_service(PREDICTION_SERVICE, predict), _service(MODEL_SERVICE, status))

    async def predict(self, data: bytes, context: Context) -> bytes:
        """Predict: runs a signature; the response has its outputs and the version that ran."""
        deadline = _deadline(context)
        request = _parse(PredictRequest, data)
        spec = request.model_spec

        def decode(signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
            signature = find_signature(signatures, spec.signature_name)
            check_outputs(signature, request.output_filter)
            return signature, read_inputs(signature, request)

        def encode(
            loaded: LoadedVersion, signature: Signature, outputs: Tensors
        ) -> tuple[bool, bytes]:
            response = write_outputs(signature, outputs, request.output_filter)
            response.model_spec.CopyFrom(_served(loaded, signature.name))
            return loaded.has_random_weights, response.SerializeToString()

        call = Call(spec.name, version_of(spec), decode, encode)
        is_random, response = await self._engine.submit(call, deadline)
        if is_random:
            await context.send_initial_metadata(((RANDOM_WEIGHTS_KEY, "1"),))
        return response

    async def metadata(self, data: bytes, context: Context) -> bytes:
        """GetModelMetadata: the signatures of a version that is loaded."""
        request = _parse(GetModelMetadataRequest, data)
        _check_metadata_fields(request.metadata_field)
        spec = request.model_spec
        loaded = self._repository.lease(spec.name, version_of(spec))
        try:
            response = GetModelMetadataResponse(model_spec=_served(loaded, ""))
            signatures = signature_def_map(loaded.runner.signatures)
            response.metadata["signature_def"].Pack(signatures)
            return response.SerializeToString()
        finally:
            loaded.release()

    async def status(self, data: bytes, context: Context) -> bytes:
        """GetModelStatus: the state of each version, loaded or not."""
        spec = _parse(GetModelStatusRequest, data).model_spec
        response = GetModelStatusResponse()
        for status in self._repository.statuses(spec.name, version_of(spec)):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            if status.error is not None:
                code = grpc.StatusCode[grpc_status(status.error)].value[0]
                entry.status.error_code, entry.status.error_message = code, str(status.error)
        return response.SerializeToString()


def version_of(spec: ModelSpec) -> int | None:
    """The version number asked for; None for the latest. Raises NotFound for a version label."""
    if spec.HasField("version_label"):
        raise NotFound(f"no version of {spec.name} has the label {spec.version_label!r}")
    return spec.version.value if spec.HasField("version") else None


def read_inputs(signature: Signature, request: PredictRequest) -> Tensors:
    """The arrays of the request, checked against the signature. Raises InvalidInput."""
    check_names(signature, request.inputs)
    inputs = {}
    for spec in signature.inputs:
        value = tensor_proto.to_array(spec.name, request.inputs[spec.name])
        check_tensor(spec, value)
        inputs[spec.name] = value
    return inputs


def check_outputs(signature: Signature, wanted: Collection[str]) -> None:
    """Raises InvalidInput for an output filter that names no output, or one of them twice."""
    known = {spec.name for spec in signature.outputs}
    for name in wanted:
        if name not in known:
            raise InvalidInput(
                f"output tensor alias not found in signature: {name}; there are: "
                f"{', '.join(sorted(known))}"
            )
    if len(set(wanted)) != len(wanted):
        raise InvalidInput(f"duplicate output tensor alias: {', '.join(wanted)}")


def write_outputs(
    signature: Signature, outputs: Tensors, wanted: Collection[str]
) -> PredictResponse:
    """The response with the wanted outputs; an empty filter means all of them."""
    response = PredictResponse()
    for spec in signature.outputs:
        if not wanted or spec.name in wanted:
            value = tensor_proto.from_array(outputs[spec.name], spec.dtype)
            response.outputs[spec.name].CopyFrom(value)
    return response


def _served(loaded: LoadedVersion, signature: str) -> ModelSpec:
    spec = ModelSpec(name=loaded.artifact.model, signature_name=signature)
    spec.version.value = loaded.version
    return spec


def _check_metadata_fields(fields: Collection[str]) -> None:
    if not fields:
        raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != "signature_def":
            raise InvalidInput(f"Metadata field {field} is not supported; ask for signature_def")


def _deadline(context: Context) -> Deadline:
    left = context.time_remaining()
    timeout = DEFAULT_TIMEOUT if left is None else left
    return Deadline(time.monotonic() + timeout, timeout)


def _parse(kind: type[Request], data: bytes) -> Request:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"the request is not a {kind.DESCRIPTOR.full_name}: {error}") from error


def _service(name: str, methods: Mapping[str, Respond]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(_guarded(respond))
            for method, respond in methods.items()
        },
    )


def _guarded(respond: Respond) -> Any:
    """The method with its errors turned into status codes: UNKNOWN never gets out."""

    async def answer(request: bytes, context: Context) -> bytes:
        try:
            return await respond(request, context)
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            known = as_known_error(error)
        request = b""  # what abort raises keeps this frame, in a cycle, until the next collection
        await context.abort(
            grpc.StatusCode[grpc_status(known)], error_text(known), _retry_hint(known)
        )
        raise AssertionError  # abort raises

    return answer


def _retry_hint(error: MlserveError) -> tuple[tuple[str, str], ...]:
    """The retry hint of gRPC itself, in milliseconds (the key of its proposal A6)."""
    if isinstance(error, Overloaded) and error.retry_after is not None:
        return (("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),)
    return ()
