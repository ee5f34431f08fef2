"""The gRPC methods of Triton's extensions, in the service of the Open Inference Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from mlserve.errors import InvalidInput, NotFound
from mlserve.server.grpc_service import Respond, deadline_of
from mlserve.server.oip.extensions import OipExtensions
from mlserve.server.oip.metadata import version_of
from mlserve.server.port.grpc.context import Context
from mlserve.server.wire_read import read_message
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

if TYPE_CHECKING:
    from google.protobuf.message import Message

PATIENCE = 600.0
"""Seconds that a call to load or unload has when it brings no deadline."""
_IGNORED = ("unload_dependents",)
"""Parameters without a meaning here: no model depends on another."""


class OipGrpcExtensions:
    """The methods; each takes a request's bytes and returns a response's."""

    def __init__(self, extensions: OipExtensions) -> None:
        self._extensions = extensions

    def methods(self) -> dict[str, Respond]:
        """The methods by name."""
        return {
            "ModelConfig": self.config,
            "ModelStatistics": self.statistics,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }

    async def config(self, data: bytes, context: Context) -> bytes:
        """ModelConfig: how a loaded version is configured."""
        request = await read_message(ModelConfigRequest, data, deadline_of(context, PATIENCE))
        found = self._extensions.config(request.name, version_of(request.version, request.name))
        return _written({"config": found}, ModelConfigResponse())

    async def statistics(self, data: bytes, context: Context) -> bytes:
        """ModelStatistics: of one version, of the versions of a model, or of all models."""
        request = await read_message(ModelStatisticsRequest, data, deadline_of(context, PATIENCE))
        version = version_of(request.version, request.name)
        found = self._extensions.statistics(request.name, version)
        return _written({"model_stats": found}, ModelStatisticsResponse())

    async def index(self, data: bytes, context: Context) -> bytes:
        """RepositoryIndex: every version of every model, with its state."""
        request = await read_message(RepositoryIndexRequest, data, deadline_of(context, PATIENCE))
        require_unnamed(request.repository_name)
        found = self._extensions.index(only_ready=request.ready)
        return _written({"models": found}, RepositoryIndexResponse())

    async def load(self, data: bytes, context: Context) -> bytes:
        """RepositoryModelLoad: looks for new versions, loads what was unloaded."""
        self._extensions.require_control()
        deadline = deadline_of(context, PATIENCE)
        request = await read_message(RepositoryModelLoadRequest, data, deadline)
        require_unnamed(request.repository_name)
        require_no_override(list(request.parameters))
        await self._extensions.load(request.model_name, deadline)
        return RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, data: bytes, context: Context) -> bytes:
        """RepositoryModelUnload: unloads every version of a model."""
        self._extensions.require_control()
        deadline = deadline_of(context, PATIENCE)
        request = await read_message(RepositoryModelUnloadRequest, data, deadline)
        require_unnamed(request.repository_name)
        require_no_override(list(request.parameters))
        await self._extensions.unload(request.model_name, deadline)
        return RepositoryModelUnloadResponse().SerializeToString()


def require_unnamed(repository: str) -> None:
    """Raises NotFound for a repository's name: a server has one, without a name."""
    if repository:
        raise NotFound(
            f"there is no model repository {repository!r}: this server has one, without a name"
        )


def require_no_override(parameters: list[str]) -> None:
    """Raises InvalidInput for a parameter that would bring another configuration or files."""
    unknown = [name for name in parameters if name not in _IGNORED]
    if unknown:
        raise InvalidInput(
            f"the parameter {unknown[0]!r} is not supported: a model is loaded as the server was "
            "started to serve it"
        )


def _written(found: dict[str, Any], message: Message) -> bytes:
    return json_format.ParseDict(found, message).SerializeToString()
