"""The shadows and splits of a server: the request for them, and how the answer is read."""

from __future__ import annotations

from mlserve.client.adapter import Call, Reply
from mlserve.client.codecs import excerpt, parse_json
from mlserve.client.endpoint import ProtocolName
from mlserve.client.refusals import Unreadable
from mlserve.wire import paths
from mlserve.wire.rollouts import Rollouts
from mlserve.wire.services import SERVER, method_path


def rollouts_call(protocol: ProtocolName) -> Call:
    """Return the request."""
    if protocol == "rest":
        return Call(paths.SHADOW, None)
    from mlserve.wire.proto.mlserve_pb2 import ShadowRequest  # REST needs no protobuf

    return Call(method_path(SERVER, "Shadow"), ShadowRequest().SerializeToString())


def read_rollouts(protocol: ProtocolName, reply: Reply) -> Rollouts:
    """Return them. Raises Unreadable."""
    body = reply.body
    if protocol == "grpc":
        from mlserve.client.protobuf import parse_message
        from mlserve.wire.proto.mlserve_pb2 import ShadowResponse

        body = parse_message(ShadowResponse, body).json
    try:
        return Rollouts.from_json(parse_json(body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"shadows and splits ({error!r})", excerpt(body)) from error
