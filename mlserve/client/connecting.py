"""The adapter and the transport for an endpoint; the library of the other one is not imported."""

from __future__ import annotations

from mlserve.client.endpoint import Endpoint
from mlserve.client.wire import Adapter, Transport


def connect(endpoint: Endpoint) -> tuple[Adapter, Transport]:
    """What speaks TensorFlow Serving's API, version 1, to this endpoint. Sends nothing yet."""
    if endpoint.protocol == "grpc":
        from mlserve.client.grpc_transport import GrpcTransport
        from mlserve.client.tfs_grpc import TfsGrpc

        return TfsGrpc(), GrpcTransport(endpoint)
    from mlserve.client.rest_transport import RestTransport
    from mlserve.client.tfs_rest import TfsRest

    return TfsRest(), RestTransport(endpoint)
