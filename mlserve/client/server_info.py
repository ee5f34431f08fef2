"""What a server reports about itself: the models it serves, and its load.

The models are looked up if the caller names none. mlserve's servers, Triton and MLServer have the
index of the Open Inference Protocol's model repository extension. KServe lists its models over
REST. TensorFlow Serving lists nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.client.adapter import Call, Reply
from mlserve.client.answers import (
    CallerPatience,
    RecordingState,
    ServerLoad,
    VersionLadder,
    VersionProcesses,
    VersionServing,
)
from mlserve.client.codecs import excerpt, parse_any_json, parse_json
from mlserve.client.endpoint import Endpoint, ProtocolName
from mlserve.client.refusals import ConnectionLost, NotSpoken, Unreadable
from mlserve.client.retries import CallState
from mlserve.client.session import Session
from mlserve.errors import (
    InferenceFailed,
    InvalidInput,
    MlserveError,
    NotFound,
    UsageError,
    readable,
)
from mlserve.wire.headers import LIMITS, LOAD, own_header
from mlserve.wire.services import INFERENCE, method_path

_READY = "READY"
_MOST_NAMES = 10
_NAME_IT = "name the model: {model NAME}"


@dataclass(frozen=True, slots=True)
class IndexedModel:
    """A model in a server's index. `is_ready` is True if the server does not say."""

    name: str
    is_ready: bool = True


async def find_model(session: Session, state: CallState) -> str:
    """Return the name of the only model that the server serves.

    Raises UsageError if it serves none or several, or does not say, and the errors of any call.
    """
    endpoint, refusals = session.endpoint, list[MlserveError]()
    for call, read in _requests(endpoint):
        try:
            listed = await session.ask_with_retries(call, read, state)
        except NotSpoken as error:
            refusals.append(error.refusal)
        except (InvalidInput, NotFound) as error:
            refusals.append(error)  # the message of a server without that path
        except ConnectionLost as error:
            if not refusals:
                raise
            raise refusals[0] from error  # the server's answer says more
        else:
            return _only(endpoint, listed)
    if all(isinstance(refusal, InferenceFailed) for refusal in refusals):
        raise refusals[0]  # whatever it is, it is not a model server
    raise UsageError(
        f"no model is named, and the server at {endpoint} does not list the models it serves",
        hint=_NAME_IT,
    )


_Read = Callable[[Reply], tuple[IndexedModel, ...]]


def _requests(endpoint: Endpoint) -> tuple[tuple[Call, _Read], ...]:
    if endpoint.protocol == "grpc":
        return ((Call(method_path(INFERENCE, "RepositoryIndex"), b""), _read_message),)
    return (
        (Call("/v2/repository/index", b"{}"), _read_index),
        (Call("/v1/models", None), _read_names),
    )


def _read_message(reply: Reply) -> tuple[IndexedModel, ...]:
    from mlserve.client.protobuf import parse_message  # REST needs no protobuf
    from mlserve.wire.proto.inference_extensions_pb2 import RepositoryIndexResponse

    index = parse_message(RepositoryIndexResponse, reply.body)
    return tuple(IndexedModel(row.name, _is_ready(row.state)) for row in index.models)


def _read_index(reply: Reply) -> tuple[IndexedModel, ...]:
    """Read the repository index: an array of objects with name, version, state and reason."""
    rows = parse_any_json(reply.body)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and "name" in row for row in rows
    ):
        raise Unreadable("an index of models", excerpt(reply.body))
    return tuple(IndexedModel(str(row["name"]), _is_ready(row.get("state"))) for row in rows)


def _read_names(reply: Reply) -> tuple[IndexedModel, ...]:
    """Read KServe's list: `{"models": ["name", ...]}`."""
    data = parse_any_json(reply.body)
    names = data.get("models") if isinstance(data, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Unreadable("a list of models", excerpt(reply.body))
    return tuple(map(IndexedModel, names))


def _is_ready(state: str | None) -> bool:
    """Return whether that state means ready; Triton leaves it out for a model not loaded."""
    return state == _READY


def _only(endpoint: Endpoint, listed: Sequence[IndexedModel]) -> str:
    """Return the only ready model; else the only one at all, whose own error says more."""
    names = sorted({model.name for model in listed if model.is_ready})
    names = names or sorted({model.name for model in listed})
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError(f"the server at {endpoint} serves no model", hint=_NAME_IT)
    shown = ", ".join(map(readable, names[:_MOST_NAMES]))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    raise UsageError(
        f"the server at {endpoint} serves {len(names)} models: {shown}{more}", hint=_NAME_IT
    )


def load_call(protocol: ProtocolName) -> Call:
    """Return the request for the server's metadata."""
    return (
        Call(method_path(INFERENCE, "ServerMetadata"), b"")
        if protocol == "grpc"
        else Call("/v2", None)
    )


def read_load(protocol: ProtocolName, reply: Reply) -> ServerLoad | None:
    """Return the load; None if the answer does not contain all of it."""
    try:
        load = _in_metadata(reply) if protocol == "grpc" else parse_json(reply.body)["parameters"]
        return ServerLoad(
            running=int(load["running"]),
            waiting=int(load["waiting"]),
            max_queue=None if load["max_queue"] is None else int(load["max_queue"]),
            default_timeout=float(load["default_timeout"]),
            slots=int(load.get("slots", 1)),
            processes=tuple(map(_processes, load.get("processes", ()))),
            ladders=tuple(map(_ladder, load.get("ladders", ()))),
            serving=tuple(map(_serving, load.get("serving", ()))),
            patience=tuple(map(_patience, load.get("patience", ()))),
            recording=_recording(load.get("recording")),
        )
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError):
        return None  # a third-party server, or another version of ours


def _processes(read: Mapping[str, Any]) -> VersionProcesses:
    pids = tuple(int(pid) for pid in read["pids"])
    return VersionProcesses(str(read["model"]), int(read["version"]), pids, int(read["restarts"]))


def _ladder(read: Mapping[str, Any]) -> VersionLadder:
    rungs = tuple((str(rung["name"]), str(rung["version"])) for rung in read["rungs"])
    return VersionLadder(str(read["model"]), int(read["version"]), rungs, str(read["policy"]))


def _serving(read: Mapping[str, Any]) -> VersionServing:
    texts = (readable(str(read.get(key, ""))) for key in ("by", "golden", "fault"))
    return VersionServing(str(read["model"]), int(read["version"]), *texts)


def _patience(read: Mapping[str, Any]) -> CallerPatience:
    return CallerPatience(
        readable(str(read["transport"])),
        readable(str(read["agent"])),
        float(read["seconds"]),
        read["is_known"] is True,
        int(read["left"]),
        int(read["stayed"]),
    )


def _recording(read: Mapping[str, Any] | None) -> RecordingState | None:
    if read is None:
        return None
    counts = (int(read[name]) for name in ("recorded", "lost", "bodies_lost"))
    return RecordingState(readable(str(read["problem"])), *counts)


def _in_metadata(reply: Reply) -> Mapping[str, Any]:
    limits, load = own_header(reply.headers, LIMITS), own_header(reply.headers, LOAD)
    return {**json.loads(limits), **json.loads(load)}
