"""A server's last decisions on who was let in: the request for them, and how the answer is read."""

from __future__ import annotations

from urllib.parse import quote

from mlserve.admission.recording import Recording
from mlserve.client.adapter import Call, Reply
from mlserve.client.codecs import excerpt, parse_json
from mlserve.client.endpoint import Endpoint, ProtocolName
from mlserve.client.refusals import Unreadable
from mlserve.errors import UsageError
from mlserve.wire import paths
from mlserve.wire.services import SERVER, method_path

_MOST_VALUES = 2**24
"""More values than a recording has: a ring of half a million calls."""


def decisions_call(protocol: ProtocolName, request_id: str) -> Call:
    """Return the request for the decisions on calls with that id, or on all for an empty one."""
    if protocol == "rest":
        query = f"?request_id={quote(request_id, safe='')}" if request_id else ""
        return Call(paths.DECISIONS + query, None)
    from mlserve.wire.proto.mlserve_pb2 import DecisionsRequest  # REST needs no protobuf

    message = DecisionsRequest(request_id=request_id)
    return Call(method_path(SERVER, "Decisions"), message.SerializeToString())


def read_decisions(protocol: ProtocolName, reply: Reply) -> Recording:
    """Return the decisions. Raises Unreadable."""
    body = reply.body
    if protocol == "grpc":
        from mlserve.client.protobuf import parse_message
        from mlserve.wire.proto.mlserve_pb2 import DecisionsResponse

        body = parse_message(DecisionsResponse, body).json
    try:
        return Recording.from_json(parse_json(body, _MOST_VALUES))
    except ValueError as error:
        raise Unreadable(f"decisions ({error})", excerpt(body)) from error


def keeps_none(endpoint: Endpoint) -> UsageError:
    """Return the error for a server that has no such method."""
    return UsageError(
        f"the server at {endpoint} does not tell what it decided",
        hint="only mlserve's own servers do, from this version on; look into that server's log",
    )
