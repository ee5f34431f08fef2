"""What each replayed request says: its own recorded bytes, another request's, or the user's input.

A recording keeps the bytes of a share of the requests, if of any. The others are sent with the
bytes of one that was alike, in turn, or with the input that the user gives.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from google.protobuf.message import DecodeError, Message

from mlserve.client.adapter import Call, SentRequest
from mlserve.errors import NotFound, counted, first_of
from mlserve.recording.records import Kind, RecordedRequest, Sampled
from mlserve.replay.paths import model_asked, path_for, verb_of
from mlserve.wire.proto import inference_pb2, serving_pb2

_NAMED = 3
_MESSAGES: Mapping[str, Callable[[], Any]] = {
    "Predict": serving_pb2.PredictRequest,
    "Classify": serving_pb2.ClassificationRequest,
    "Regress": serving_pb2.RegressionRequest,
    "MultiInference": serving_pb2.MultiInferenceRequest,
    "ModelInfer": inference_pb2.ModelInferRequest,
}
Transport = str
InputOf = tuple[str, str, str, str]
"""What a request in place of a recorded one depends on: transport, api, model and signature."""


class Origin(StrEnum):
    """Where the bytes of a replayed request come from."""

    OWN = "own"
    ALIKE = "alike"
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class Renaming:
    """The model and the version to ask in place of the recorded ones; None: as recorded."""

    model: str | None = None
    version: int | None = None

    def path(self, kind: Kind) -> str:
        """Return the path of the recorded call, for that model and version."""
        return path_for(kind, self.model, self.version)

    def body(self, kind: Kind, body: bytes) -> bytes:
        """Return the recorded body, for that model and version, which only messages name."""
        if kind.transport != "grpc" or (self.model is None and self.version is None):
            return body
        return self._message(verb_of(kind), body)

    def _message(self, method: str, body: bytes) -> bytes:
        """Return a message that names them; one that cannot be read stays as it is."""
        made = _MESSAGES.get(method)
        if made is None:
            return body
        message = made()
        try:
            message.ParseFromString(body)
        except DecodeError:
            return body
        if method == "ModelInfer":
            self._name_infer(message)
        elif method == "MultiInference":
            for task in message.tasks:
                self._name_spec(task.model_spec)
        else:
            self._name_spec(message.model_spec)
        written: bytes = _written(message)
        return written

    def _name_infer(self, message: Any) -> None:
        if self.model is not None:
            message.model_name = self.model
        if self.version is not None:
            message.model_version = str(self.version)

    def _name_spec(self, spec: Any) -> None:
        if self.model is not None:
            spec.name = self.model
        if self.version is not None:
            spec.version.value = self.version


def _written(message: Message) -> bytes:
    return message.SerializeToString()


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded call for the model and the version that are asked; its body stays in its file."""

    kind: Kind
    sample: Sampled
    renaming: Renaming

    @property
    def head(self) -> Call:
        """The call without its body."""
        return Call(self.renaming.path(self.kind), None, dict(self.sample.headers))

    def body(self) -> bytes:
        """Return the body, read now. Raises OSError."""
        return self.renaming.body(self.kind, self.sample.body)


@dataclass(frozen=True, slots=True)
class Content:
    """What a request says: a recorded call, or an input that is encoded for each timeout anew."""

    origin: Origin
    key: tuple[object, ...]
    """Stands for the content: equal keys, equal bytes."""
    recorded: RecordedCall | None = None
    input: SentRequest | None = None


def input_of(kind: Kind, transport: Transport) -> InputOf:
    """Return what an input in place of such a request depends on."""
    return transport, kind.api, model_asked(kind), kind.signature


@dataclass(slots=True)
class Bodies:
    """Gives each request its content. `inputs` are those of the user, if there are any."""

    renaming: Renaming
    inputs: Mapping[InputOf, Sequence[SentRequest]] = field(default_factory=dict)
    counts: Counter[Origin] = field(default_factory=Counter)
    _alike: defaultdict[tuple[object, ...], list[tuple[int, Sampled]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _turns: Counter[tuple[object, ...]] = field(default_factory=Counter)

    def learn(self, requests: Sequence[RecordedRequest]) -> None:
        """Learn which bytes there are for requests that have none of their own.

        Those of requests that were not answered may be wrong, and are not lent.
        """
        for index, request in enumerate(requests):
            if request.sample is not None and request.kind.is_ok:
                for group in _groups(request.kind):
                    self._alike[group].append((index, request.sample))

    def missing(self, requests: Sequence[RecordedRequest]) -> Counter[str]:
        """Return how many requests have nothing to say, by what they asked."""
        found: Counter[str] = Counter()
        for request in requests:
            has_own = request.sample is not None
            if not has_own and not self.inputs and self._lender(request.kind) is None:
                kind = request.kind
                found[f"{kind.transport} {kind.path}"] += 1
        return found

    def content(self, index: int, request: RecordedRequest, transport: Transport) -> Content:
        """Return what the request of that number says."""
        content = self._content(index, request, transport)
        self.counts[content.origin] += 1
        return content

    def _content(self, index: int, request: RecordedRequest, transport: Transport) -> Content:
        kind, sample = request.kind, request.sample
        if sample is not None:
            return self._recorded(Origin.OWN, index, kind, sample)
        if self.inputs:
            key = input_of(kind, transport)
            given = self.inputs[key]
            turn = self._turn(key) % len(given)
            return Content(Origin.INPUT, (*key, turn), input=given[turn])
        group = self._lender(kind)
        assert group is not None, "`missing` was not asked"
        lender, lent = self._alike[group][self._turn(group) % len(self._alike[group])]
        return self._recorded(Origin.ALIKE, lender, kind, lent)

    def _recorded(self, origin: Origin, index: int, kind: Kind, sample: Sampled) -> Content:
        """Return the bytes of the request of that number, asked as one of this kind."""
        return Content(origin, (index, kind.path), RecordedCall(kind, sample, self.renaming))

    def _lender(self, kind: Kind) -> tuple[object, ...] | None:
        groups = _groups(kind)
        if model_asked(kind):
            groups = groups[:-1]  # what another model takes is no guess at what this one does
        return next((group for group in groups if self._alike.get(group)), None)

    def _turn(self, key: tuple[object, ...]) -> int:
        turn = self._turns[key]
        self._turns[key] += 1
        return turn


def require_bodies(bodies: Bodies, requests: Sequence[RecordedRequest]) -> None:
    """Raise NotFound, naming what was asked, if a request has nothing to say."""
    missing = bodies.missing(requests)
    if missing:
        raise NotFound(
            f"{counted(missing.total(), 'recorded request')} of {len(requests)} have no body, and "
            f"no other request of their kind has one ({first_of(list(missing), _NAMED)})",
            hint="give what to ask about: --input FILE or --input NAME=VALUE; a server that "
            "records with --record-bodies keeps bodies; --model NAME replays those of one model",
        )


def _groups(kind: Kind) -> list[tuple[object, ...]]:
    """Return what two requests have in common that are alike: the most first.

    Over gRPC the body says which version is asked, and over REST the path, which is not lent.
    """
    usual, model = (kind.transport, kind.api, verb_of(kind)), model_asked(kind)
    return [
        (*usual, model, kind.signature, kind.version),
        (*usual, model, kind.signature),
        (*usual, model),
        usual,
    ]
