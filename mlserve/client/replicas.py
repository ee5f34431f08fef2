"""The replicas behind a server's address: the request for them, and how the answer is read."""

from __future__ import annotations

from mlserve.client.adapter import Call, Reply
from mlserve.client.codecs import excerpt, parse_json
from mlserve.client.endpoint import Endpoint
from mlserve.client.refusals import Unreadable
from mlserve.errors import UsageError
from mlserve.wire import paths
from mlserve.wire.replicas import ReplicaSet


def replicas_call(endpoint: Endpoint) -> Call:
    """Return the request. Raises UsageError for a gRPC endpoint."""
    if endpoint.protocol == "grpc":
        raise UsageError(
            f"the replicas behind {endpoint} are told over REST only",
            hint="give the REST port: http://host:port",
        )
    return Call(paths.REPLICAS, None)


def read_replicas(reply: Reply) -> ReplicaSet:
    """Return the replicas. Raises Unreadable."""
    try:
        return ReplicaSet.from_json(parse_json(reply.body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"replicas ({error!r})", excerpt(reply.body)) from error
