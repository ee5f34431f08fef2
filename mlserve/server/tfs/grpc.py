"""TensorFlow Serving's gRPC API: PredictionService and ModelService over the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Protocol, Self

from mlserve.errors import InvalidInput, shortened
from mlserve.server.codec.images import check_images
from mlserve.server.codec.proto_reader import Request, parse, read_message
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import InferenceCall
from mlserve.server.engine.work import Codec
from mlserve.server.listen.access import require_control
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import (
    BytesMethod,
    Methods,
    Service,
    deadline_of,
)
from mlserve.server.listen.grpc.status import CODES
from mlserve.server.models.loading import Served
from mlserve.server.models.models import Models
from mlserve.server.models.versions import VersionChoice
from mlserve.server.request import Purpose, current
from mlserve.server.tensors import check_batch_length, check_names
from mlserve.server.tfs import tensor_proto
from mlserve.server.tfs.inference_grpc import InferenceGrpc
from mlserve.server.tfs.model_spec import (
    named_spec_of,
    signature_over_grpc,
    spec_of,
    spec_served,
    telling_of_servables,
    telling_of_versions,
)
from mlserve.server.tfs.signature_defs import signature_def_map
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve.wire.headers import CONTRACT, RANDOM_WEIGHTS
from mlserve.wire.proto.model_config_pb2 import ModelServerConfig
from mlserve.wire.proto.serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from mlserve.wire.services import MODEL, PREDICTION
from mlserve.wire.status import grpc_status

if TYPE_CHECKING:
    from mlserve.backend import Tensors


API = "tfs"
"""The protocol's name in the log and in metrics."""
SHORT_NAMES = tuple(name.rpartition(".")[2] for name in (PREDICTION, MODEL))
"""The names used by TensorFlow Serving's own health service."""


class ModelReload(Protocol):
    """How a server changes its models while it runs: by request, and by following a file."""

    async def apply(self, config: ModelServerConfig, models: Models, /) -> None:
        """Serve the models of the configuration and no others.

        Raises InvalidInput and NotYet, which change nothing, and ModelLoadFailed, once the others
        are served, for models that could not be loaded.
        """

    async def follow(self, models: Models, /) -> None:
        """Apply each change of a configuration file; return at once if there is none."""


class TfsGrpcService:
    """The methods of the two services, each from request bytes to response bytes."""

    def __init__(
        self,
        engine: Engine,
        models: Models,
        *,
        host: str,
        reload: ModelReload | None = None,
    ) -> None:
        self._engine = engine
        self._models = models
        self._host = host
        self._reload = reload

    def services(self) -> tuple[Service, Service]:
        """Return the services to add to the gRPC server."""
        inference = InferenceGrpc(self._engine, self._models, self._version_of).methods()
        prediction: Methods = {
            Purpose.PREDICT: {"Predict": self.predict, **inference},
            Purpose.METADATA: {"GetModelMetadata": self.metadata},
        }
        control: dict[str, BytesMethod] = {}
        if self._reload is not None:
            control["HandleReloadConfigRequest"] = partial(self.reload_config, self._reload)
        model: Methods = {
            Purpose.PROBE: {"GetModelStatus": self.status},
            Purpose.METADATA: control,
        }
        return Service(PREDICTION, API, prediction), Service(MODEL, API, model)

    async def predict(self, data: bytes, context: Context) -> bytes:
        """Predict: run a signature; the response has its outputs and the version that ran."""
        deadline = deadline_of(context, self._engine.default_timeout)
        request = await read_message(PredictRequest, data, deadline)
        spec = named_spec_of(request)
        call = InferenceCall(
            spec.name,
            self._version_of(spec),
            deadline,
            PredictCodec(data, request),
            body=len(data),
            signature=spec.signature_name or DEFAULT_SIGNATURE,
            rows=_claimed_rows(request),
        )
        with telling_of_servables():
            is_random, response = await self._engine.serve(call)
        if is_random:
            await context.send_initial_metadata(((RANDOM_WEIGHTS, "1"),))
        return response

    async def metadata(self, data: bytes, context: Context) -> bytes:
        """GetModelMetadata: the signatures of a loaded version."""
        request = await self._read(GetModelMetadataRequest, data, context)
        spec = spec_of(request)
        _check_metadata_fields(request.metadata_field)
        spec = named_spec_of(request)
        with telling_of_servables():
            loaded = self._models.lease(spec.name, self._version_of(spec))
        with loaded:
            current().served_by = loaded.standing.served_by
            response = GetModelMetadataResponse(model_spec=spec_served(loaded.served, ""))
            signatures = signature_def_map(loaded.runner)
            response.metadata["signature_def"].Pack(signatures)
            if loaded.contract:
                await context.send_initial_metadata(((CONTRACT, loaded.contract),))
            return response.SerializeToString()

    async def status(self, data: bytes, context: Context) -> bytes:
        """GetModelStatus: the state of each version, loaded or not."""
        spec = spec_of(await self._read(GetModelStatusRequest, data, context))
        response = GetModelStatusResponse()
        with telling_of_versions():
            statuses = self._models.known_statuses(spec.name, self._version_of(spec))
        for status in statuses:
            entry = response.model_version_status.add(version=status.version, state=status.state)
            if status.error is not None:
                code = CODES[grpc_status(status.error)]
                entry.status.error_code, entry.status.error_message = code, str(status.error)
        return response.SerializeToString()

    async def reload_config(self, reload: ModelReload, data: bytes, context: Context) -> bytes:
        """HandleReloadConfigRequest: serve the models of that configuration and no others.

        A caller without permission learns nothing from the answer, least of all a path.
        """
        require_control(self._engine.settings, self._host)
        config = (await self._read(ReloadConfigRequest, data, context)).config
        if config.WhichOneof("config") != "model_config_list":
            raise InvalidInput(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
                "ModelConfigList is currently supported"
            )
        await reload.apply(config, self._models)
        response = ReloadConfigResponse()
        response.status.SetInParent()  # an explicit OK, as TensorFlow Serving sends it
        return response.SerializeToString()

    async def _read(self, kind: type[Request], data: bytes, context: Context) -> Request:
        deadline = deadline_of(context, self._engine.default_timeout)
        return await read_message(kind, data, deadline)

    def _version_of(self, spec: ModelSpec) -> VersionChoice:
        """Return the version asked for: its number, its label, or None for the latest."""
        if spec.HasField("version_label"):
            return spec.version_label
        if not spec.HasField("version"):
            return None
        return self._models.latest_for_zero(spec.name, spec.version.value)


class PredictCodec(Codec[tuple[bool, bytes]]):
    """A PredictRequest; the answer is whether the weights are random, and the response."""

    def __init__(self, data: bytes, request: PredictRequest) -> None:
        self._data = data
        self._request = request

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the message from bytes that have been checked."""
        return cls(data, parse(PredictRequest, data))

    def __reduce__(self) -> tuple[Callable[[bytes], PredictCodec], tuple[PickleBuffer]]:
        return PredictCodec.from_bytes, (PickleBuffer(self._data),)

    def let_go(self) -> bool:
        self._data, self._request = b"", PredictRequest()
        return True

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        request = self._request
        signature = signature_over_grpc(signatures, named_spec_of(request).signature_name)
        check_outputs(signature, request.output_filter)
        return signature, read_inputs(signature, request, settings)

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> tuple[bool, bytes]:
        response = write_outputs(signature, outputs, self._request.output_filter)
        response.model_spec.CopyFrom(spec_served(served, signature.name))
        return served.has_random_weights, response.SerializeToString()


def read_inputs(signature: Signature, request: PredictRequest, settings: ServerSettings) -> Tensors:
    """Return the arrays of the request, checked against the signature and the server's limits.

    Raises InvalidInput.
    """
    check_names(signature, request.inputs)
    inputs, room = {}, tensor_proto.Expansion(settings.expanded_bytes)
    for spec in signature.inputs_in(request.inputs):
        sent = request.inputs[spec.name]
        sizes = tuple(dim.size for dim in sent.tensor_shape.dim[:1])
        check_batch_length(spec, sizes, settings.max_batch_length)
        tensor_proto.check_dtype(signature, spec, sent)  # before its values are read
        try:
            value = tensor_proto.to_array(spec.name, sent, room)
        except InvalidInput as error:
            error.message = f"tensor parsing error: {spec.name}: {error.message}"
            raise
        inputs[spec.name] = value
    check_images(signature, inputs, settings)
    return inputs


def check_outputs(signature: Signature, wanted: Collection[str]) -> None:
    """Raise InvalidInput for an output filter that names an unknown output, or one twice."""
    names = {spec.name for spec in signature.outputs}
    for name in wanted:
        if name not in names:
            raise InvalidInput(
                f"output tensor alias not found in signature: {shortened(name)} Outputs expected "
                f"to be in the set {{{','.join(sorted(names))}}}."
            )
    for name, times in Counter(wanted).items():
        if times > 1:
            raise InvalidInput(f"duplicate output tensor alias: {name}")


def write_outputs(
    signature: Signature, outputs: Tensors, wanted: Collection[str]
) -> PredictResponse:
    """Return the response with the wanted outputs; an empty filter means all of them."""
    response = PredictResponse()
    for spec in signature.outputs:
        if not wanted or spec.name in wanted:
            value = tensor_proto.from_array(outputs[spec.name], spec.dtype)
            response.outputs[spec.name].CopyFrom(value)
    return response


def _claimed_rows(request: PredictRequest) -> int:
    """Return the largest first size that the shapes of the inputs claim; at least 1."""
    shapes = [tensor.tensor_shape.dim for tensor in request.inputs.values()]
    return max((shape[0].size for shape in shapes if shape), default=1)


def _check_metadata_fields(fields: Collection[str]) -> None:
    if not fields:
        raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != "signature_def":
            raise InvalidInput(
                f"Metadata field {shortened(field)} is not supported; ask for signature_def"
            )
