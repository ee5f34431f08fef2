"""What speaks an API to an endpoint; the library of the other protocol is not imported."""

from __future__ import annotations

from mlserve.client.access import Access
from mlserve.client.dialogue import Dialogue, Line, TfsDialogue
from mlserve.client.endpoint import Endpoint
from mlserve.client.forks import has_inherited_grpc
from mlserve.client.wire import Api, ModelRef, OipAdapter, TfsAdapter, Transport


def open_transport(endpoint: Endpoint, access: Access, limit: int) -> Transport:
    """A connection to the endpoint; `limit` is the bytes of the largest answer.

    Sends nothing yet.
    """
    if endpoint.protocol == "grpc" and has_inherited_grpc():
        from mlserve.client.http2_transport import Http2Transport

        return Http2Transport(endpoint, access, limit)
    if endpoint.protocol == "grpc":
        from mlserve.client.grpc_transport import GrpcTransport

        return GrpcTransport(endpoint, access, limit)
    from mlserve.client.rest_transport import RestTransport

    return RestTransport(endpoint, access, limit)


def open_dialogue(api: Api, endpoint: Endpoint, transport: Transport, model: ModelRef) -> Dialogue:
    """The API spoken over the transport. Sends nothing yet."""
    line = Line(endpoint, transport)
    if api == "tfs":
        return TfsDialogue(_tfs_adapter(endpoint), line, model)
    from mlserve.client.oip_dialogue import OipDialogue

    return OipDialogue(_oip_adapter(endpoint), line, model)


def _tfs_adapter(endpoint: Endpoint) -> TfsAdapter:
    if endpoint.protocol == "grpc":
        from mlserve.client.tfs_grpc import TfsGrpc

        return TfsGrpc()
    from mlserve.client.tfs_rest import TfsRest

    return TfsRest()


def _oip_adapter(endpoint: Endpoint) -> OipAdapter:
    if endpoint.protocol == "grpc":
        from mlserve.client.oip_grpc import OipGrpc

        return OipGrpc()
    from mlserve.client.oip_rest import OipRest

    return OipRest()
