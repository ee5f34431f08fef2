"""The gRPC API of the Open Inference Protocol: GRPCInferenceService over the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Self

from google.protobuf import json_format

from mlserve.errors import InvalidInput, NotFound
from mlserve.server.codec.proto_reader import Request, parse, read_message
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import InferenceCall
from mlserve.server.engine.work import Codec
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import (
    BytesMethod,
    Methods,
    Service,
    deadline_of,
)
from mlserve.server.models.loading import Served
from mlserve.server.models.models import Models
from mlserve.server.oip.extensions import (
    PATIENCE,
    OipExtensions,
    require_no_override,
    require_unnamed,
)
from mlserve.server.oip.metadata import (
    API,
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    OipModels,
    TensorMetadata,
    version_of,
)
from mlserve.server.oip.parameters import Parameters
from mlserve.server.oip.request import (
    AnswerTensor,
    InferRequest,
    SentTensor,
    WantedOutput,
    datatype_of,
    write_outputs,
)
from mlserve.server.oip.tensors import RAW_ONLY, from_bytes, from_contents, to_bytes, to_contents
from mlserve.server.request import Purpose
from mlserve.server.telemetry.recorder import Recorder
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature
from mlserve.wire.headers import (
    CONTRACT,
    LIMITS,
    LOAD,
    OPTIONAL,
    RANDOM_WEIGHTS,
    SIGNATURE,
    SIGNATURES,
)
from mlserve.wire.proto.inference_extensions_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)
from mlserve.wire.proto.inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from mlserve.wire.services import INFERENCE

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mlserve.backend import Tensors


class OipGrpcExtensions:
    """The methods of Triton's extensions, each from request bytes to response bytes."""

    def __init__(self, extensions: OipExtensions) -> None:
        self._extensions = extensions

    def methods(self) -> dict[str, BytesMethod]:
        """Return the methods by name."""
        return {
            "ModelConfig": self.config,
            "ModelStatistics": self.statistics,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }

    async def config(self, data: bytes, context: Context) -> bytes:
        """ModelConfig: the configuration of a loaded version."""
        request = await read_message(ModelConfigRequest, data, deadline_of(context, PATIENCE))
        config = self._extensions.config(request.name, version_of(request.version, request.name))
        return _written({"config": config}, ModelConfigResponse())

    async def statistics(self, data: bytes, context: Context) -> bytes:
        """ModelStatistics: of one version, of the versions of a model, or of all models."""
        request = await read_message(ModelStatisticsRequest, data, deadline_of(context, PATIENCE))
        version = version_of(request.version, request.name)
        statistics = self._extensions.statistics(request.name, version)
        return _written({"model_stats": statistics}, ModelStatisticsResponse())

    async def index(self, data: bytes, context: Context) -> bytes:
        """RepositoryIndex: every version of every model, with its state."""
        request = await read_message(RepositoryIndexRequest, data, deadline_of(context, PATIENCE))
        require_unnamed(request.repository_name)
        entries = self._extensions.index(only_ready=request.ready)
        return _written({"models": entries}, RepositoryIndexResponse())

    async def load(self, data: bytes, context: Context) -> bytes:
        """RepositoryModelLoad: look for new versions, load what was unloaded."""
        self._extensions.require_control()
        deadline = deadline_of(context, PATIENCE)
        request = await read_message(RepositoryModelLoadRequest, data, deadline)
        require_unnamed(request.repository_name)
        require_no_override(list(request.parameters))
        await self._extensions.load(request.model_name, deadline)
        return RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, data: bytes, context: Context) -> bytes:
        """RepositoryModelUnload: unload every version of a model."""
        self._extensions.require_control()
        deadline = deadline_of(context, PATIENCE)
        request = await read_message(RepositoryModelUnloadRequest, data, deadline)
        require_unnamed(request.repository_name)
        require_no_override(list(request.parameters))
        await self._extensions.unload(request.model_name, deadline)
        return RepositoryModelUnloadResponse().SerializeToString()


def _written(fields: dict[str, Any], message: Message) -> bytes:
    return json_format.ParseDict(fields, message).SerializeToString()


class OipGrpcService:
    """The methods of the service, each from request bytes to response bytes."""

    def __init__(
        self,
        engine: Engine,
        models: Models,
        extensions: OipExtensions,
        limits: Mapping[str, Any],
        recorder: Recorder | None = None,
    ) -> None:
        self._engine = engine
        self._extensions = OipGrpcExtensions(extensions)
        self._models = OipModels(engine, models, limits, recorder)

    def services(self) -> tuple[Service]:
        """Return the service to add to the gRPC server."""
        health: dict[str, BytesMethod] = {"ServerLive": self.live, "ServerReady": self.ready}
        methods: Methods = {
            Purpose.PREDICT: {"ModelInfer": self.infer},
            Purpose.PROBE: {**health, "ModelReady": self.model_ready},
            Purpose.METADATA: {
                "ServerMetadata": self.server_metadata,
                "ModelMetadata": self.model_metadata,
                **self._extensions.methods(),
            },
        }
        return (Service(INFERENCE, API, methods, tuple(health)),)

    async def live(self, data: bytes, context: Context) -> bytes:
        """ServerLive: always true, as the server answers."""
        return ServerLiveResponse(live=True).SerializeToString()

    async def ready(self, data: bytes, context: Context) -> bytes:
        """ServerReady: whether a request would be served now."""
        is_ready = self._models.why_server_not_ready() is None
        return ServerReadyResponse(ready=is_ready).SerializeToString()

    async def model_ready(self, data: bytes, context: Context) -> bytes:
        """ModelReady: whether that model would be served now; false for an unknown model."""
        request = await self._read(ModelReadyRequest, data, context)
        try:
            version = version_of(request.version, request.name)
            is_ready = self._models.why_not_ready(request.name, version) is None
        except NotFound:
            is_ready = False
        return ModelReadyResponse(ready=is_ready).SerializeToString()

    async def server_metadata(self, data: bytes, context: Context) -> bytes:
        """ServerMetadata: name, version and extensions."""
        limits, load = json.dumps(self._models.limits()), json.dumps(self._models.load())
        await context.send_initial_metadata(((LIMITS, limits), (LOAD, load)))
        response = ServerMetadataResponse(
            name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS
        )
        return response.SerializeToString()

    async def model_metadata(self, data: bytes, context: Context) -> bytes:
        """ModelMetadata: the inputs and outputs of one signature."""
        request = await self._read(ModelMetadataRequest, data, context)
        asked = dict(context.invocation_metadata() or ()).get(SIGNATURE, "")
        version = version_of(request.version, request.name)
        metadata = self._models.metadata(request.name, version, str(asked))
        about = {
            SIGNATURE: metadata.signature,
            SIGNATURES: ",".join(metadata.signatures),
            OPTIONAL: ",".join(metadata.optional),
            LIMITS: json.dumps(self._models.limits()),
            CONTRACT: metadata.contract,
        }
        await context.send_initial_metadata(tuple(item for item in about.items() if item[1]))
        return ModelMetadataResponse(
            name=metadata.name,
            versions=metadata.versions,
            platform=metadata.platform,
            inputs=_described(metadata.inputs),
            outputs=_described(metadata.outputs),
        ).SerializeToString()

    async def infer(self, data: bytes, context: Context) -> bytes:
        """ModelInfer: run a signature; the response has the outputs and the version that ran."""
        deadline = deadline_of(context, self._engine.default_timeout)
        request = await read_message(ModelInferRequest, data, deadline)
        codec = InferCodec(data, request)
        version = version_of(request.model_version, request.model_name)
        call = InferenceCall(
            request.model_name,
            version,
            codec.asked.sooner(deadline),
            codec,
            len(data),
            *codec.asked.hints(),
        )
        is_random, response = await self._engine.serve(call)
        if is_random:
            await context.send_initial_metadata(((RANDOM_WEIGHTS, "1"),))
        return response

    async def _read(self, kind: type[Request], data: bytes, context: Context) -> Request:
        deadline = deadline_of(context, self._engine.default_timeout)
        return await read_message(kind, data, deadline)


class InferCodec(Codec[tuple[bool, bytes]]):
    """A ModelInferRequest; the answer is whether the weights are random, and the response."""

    def __init__(self, data: bytes, request: ModelInferRequest) -> None:
        """Take the message and its bytes. Raises InvalidInput for wrong parameters."""
        self._data = data
        self._is_raw = bool(request.raw_input_contents)
        self.asked = read_request(request)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the message from bytes that have been checked."""
        return cls(data, parse(ModelInferRequest, data))

    def __reduce__(self) -> tuple[Callable[[bytes], InferCodec], tuple[PickleBuffer]]:
        return InferCodec.from_bytes, (PickleBuffer(self._data),)

    def let_go(self) -> bool:
        self._data, self.asked = b"", replace(self.asked, inputs=())
        return True

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        return self.asked.decode(signatures, settings)

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> tuple[bool, bytes]:
        answers = write_outputs(signature, outputs, self.asked.outputs)
        response = write_response(served, self.asked, answers, is_raw=self._is_raw)
        return served.has_random_weights, response.SerializeToString()


def read_request(request: ModelInferRequest) -> InferRequest:
    """Parse the message without reading its tensors. Raises InvalidInput."""
    wanted = [
        WantedOutput.from_parameters(
            item.name, Parameters.from_messages(item.parameters, f"output '{item.name}'")
        )
        for item in request.outputs
    ]
    parameters = Parameters.from_messages(request.parameters, "the request")
    return InferRequest(request.id, parameters, _inputs(request), wanted)


def write_response(
    served: Served, asked: InferRequest, answers: Sequence[AnswerTensor], *, is_raw: bool
) -> ModelInferResponse:
    """Return the answer's message: raw, or typed if every output has a typed field."""
    response = ModelInferResponse(
        model_name=served.model, model_version=str(served.version), id=asked.id
    )
    is_raw = is_raw or any(answer.spec.dtype in RAW_ONLY for answer in answers)
    for answer in answers:
        spec, value = answer.spec, answer.value
        output = response.outputs.add(name=spec.name, datatype=datatype_of(spec), shape=value.shape)
        if is_raw:
            response.raw_output_contents.append(to_bytes(spec, value))
        else:
            output.contents.CopyFrom(to_contents(spec, value))
    return response


def _inputs(request: ModelInferRequest) -> list[SentTensor]:
    raw = request.raw_input_contents
    for item in request.inputs:
        Parameters.from_messages(item.parameters, f"input '{item.name}'")
    if not raw:
        return [
            SentTensor(
                item.name,
                item.datatype,
                tuple(item.shape),
                partial(from_contents, contents=item.contents),
            )
            for item in request.inputs
        ]
    _check_raw(request)
    return [
        SentTensor(item.name, item.datatype, tuple(item.shape), partial(from_bytes, data=data))
        for item, data in zip(request.inputs, raw, strict=True)
    ]


def _check_raw(request: ModelInferRequest) -> None:
    for item in request.inputs:
        if item.HasField("contents"):
            raise InvalidInput(
                f"input '{item.name}' has contents beside raw_input_contents: send all inputs raw, "
                "or none"
            )
    if len(request.raw_input_contents) != len(request.inputs):
        raise InvalidInput(
            f"{len(request.raw_input_contents)} raw_input_contents for {len(request.inputs)} "
            "inputs: there must be one for each, in the same order"
        )


def _described(
    tensors: Sequence[TensorMetadata],
) -> list[ModelMetadataResponse.TensorMetadata]:
    return [
        ModelMetadataResponse.TensorMetadata(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
        )
        for tensor in tensors
    ]
