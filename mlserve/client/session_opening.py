"""Which session speaks an API over a protocol; only what that one needs is imported."""

from __future__ import annotations

from mlserve.client.adapter import ModelRef
from mlserve.client.connections import Connections
from mlserve.client.endpoint import Api
from mlserve.client.session import ModelSession, TfsSession


def open_session(api: Api, model: ModelRef, connections: Connections) -> ModelSession:
    """Return a session for the API. Sends nothing yet."""
    is_grpc = connections.endpoint.protocol == "grpc"
    if api == "tfs":
        return _open_tfs(model, connections, is_grpc=is_grpc)
    if api == "torchserve":
        return _open_torchserve(model, connections, is_grpc=is_grpc)
    return _open_oip(model, connections, is_grpc=is_grpc)


def _open_tfs(model: ModelRef, connections: Connections, *, is_grpc: bool) -> ModelSession:
    if is_grpc:
        from mlserve.client.tfs_grpc import TfsGrpc

        return TfsSession(TfsGrpc(), model, connections)
    from mlserve.client.tfs_rest import TfsRest

    return TfsSession(TfsRest(), model, connections)


def _open_oip(model: ModelRef, connections: Connections, *, is_grpc: bool) -> ModelSession:
    from mlserve.client.oip_session import OipSession

    if is_grpc:
        from mlserve.client.oip_grpc import OipGrpc

        return OipSession(OipGrpc(), model, connections)
    from mlserve.client.oip_rest import OipRest

    return OipSession(OipRest(), model, connections)


def _open_torchserve(model: ModelRef, connections: Connections, *, is_grpc: bool) -> ModelSession:
    from mlserve.client.torchserve_session import TorchServeSession

    if is_grpc:
        from mlserve.client.torchserve_grpc import TorchServeGrpc

        return TorchServeSession(TorchServeGrpc(), model, connections)
    from mlserve.client.torchserve_rest import TorchServeRest

    return TorchServeSession(TorchServeRest(), model, connections)
