"""Which model a server serves, asked where the caller names none.

The Open Inference Protocol's model repository extension has an index of models; mlserve's servers,
Triton and MLServer have it. KServe lists its models over REST. TensorFlow Serving lists nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlserve.client.adapter import Call, Reply
from mlserve.client.call import CallState
from mlserve.client.codecs import excerpt, parse_any_json
from mlserve.client.endpoint import Endpoint
from mlserve.client.protobuf import parse_message
from mlserve.client.refusals import ConnectionLost, NotSpoken, Unreadable, readable
from mlserve.client.session import Line
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, NotFound, UsageError

_READY = "READY"
_MOST_NAMES = 10
_NAME_IT = "name the model: {model NAME}"


@dataclass(frozen=True, slots=True)
class IndexedModel:
    """A model in a server's index. `is_ready` is True where the server does not tell."""

    name: str
    is_ready: bool = True


async def find_model(endpoint: Endpoint, line: Line, deadline: Deadline, state: CallState) -> str:
    """The name of the one model that the server serves.

    Raises UsageError when it serves none or several, or does not tell, and what any call raises.
    """
    refusals: list[MlserveError] = []
    for call, read in _questions(endpoint):
        try:
            listed, _ = await line.ask(call, read, deadline, state)
        except NotSpoken as error:
            refusals.append(error.refusal)
        except (InvalidInput, NotFound) as error:
            refusals.append(error)  # the words of a server that has no such path
        except ConnectionLost as error:
            if not refusals:
                raise
            raise refusals[0] from error  # it has answered: that says more
        else:
            return _only(endpoint, listed)
    if all(isinstance(refusal, InferenceFailed) for refusal in refusals):
        raise refusals[0]  # whatever it is, it is no model server
    raise UsageError(
        f"no model is named, and the server at {endpoint} does not list the models it serves",
        hint=_NAME_IT,
    )


_Read = Callable[[Reply], tuple[IndexedModel, ...]]


def _questions(endpoint: Endpoint) -> tuple[tuple[Call, _Read], ...]:
    if endpoint.protocol == "grpc":
        return ((Call("/inference.GRPCInferenceService/RepositoryIndex", b""), _read_message),)
    return (
        (Call("/v2/repository/index", b"{}"), _read_index),
        (Call("/v1/models", None), _read_names),
    )


def _read_message(reply: Reply) -> tuple[IndexedModel, ...]:
    from mlserve.wire.proto.inference_extensions_pb2 import RepositoryIndexResponse

    index = parse_message(RepositoryIndexResponse, reply.body)
    return tuple(IndexedModel(row.name, _is_ready(row.state)) for row in index.models)


def _read_index(reply: Reply) -> tuple[IndexedModel, ...]:
    """The repository index: an array of objects with name, version, state and reason."""
    rows = parse_any_json(reply.body)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and "name" in row for row in rows
    ):
        raise Unreadable("an index of models", excerpt(reply.body))
    return tuple(IndexedModel(str(row["name"]), _is_ready(row.get("state"))) for row in rows)


def _read_names(reply: Reply) -> tuple[IndexedModel, ...]:
    """KServe's list: `{"models": ["name", ...]}`."""
    data = parse_any_json(reply.body)
    names = data.get("models") if isinstance(data, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Unreadable("a list of models", excerpt(reply.body))
    return tuple(map(IndexedModel, names))


def _is_ready(state: str | None) -> bool:
    """Whether a model of that state is served; Triton leaves the state out where it is not."""
    return state == _READY


def _only(endpoint: Endpoint, listed: Sequence[IndexedModel]) -> str:
    """The one model that is ready; else the only one there is, whose own error says more."""
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
