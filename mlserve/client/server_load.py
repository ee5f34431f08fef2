"""What one of mlserve's servers says of its load; others have no word for it."""

from __future__ import annotations

from mlserve.client.answers import ServerLoad
from mlserve.client.endpoint import Protocol
from mlserve.client.json_body import parse
from mlserve.client.wire import Call, Reply


def load_call(protocol: Protocol) -> Call:
    """The Open Inference Protocol's question for the server's metadata."""
    if protocol == "grpc":
        return Call("/inference.GRPCInferenceService/ServerMetadata", b"")
    return Call("/v2", None)


def read_load(protocol: Protocol, reply: Reply) -> ServerLoad | None:
    """The load; None when the answer does not say all of it."""
    try:
        said = reply.about_server if protocol == "grpc" else parse(reply.body)["parameters"]
        return ServerLoad(
            running=int(said["running"]),
            waiting=int(said["waiting"]),
            max_queue=int(said["max_queue"]),
            default_timeout=float(said["default_timeout"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError):
        return None  # another maker's server, or another version of ours
