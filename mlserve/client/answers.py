"""What the client gives back: predictions, the metadata of a model, the states of its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlserve.tensors import Signature


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed attempt: the error that it met, and the wait before the next one."""

    kind: str
    message: str
    waited_ms: float

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "waited_ms": round(self.waited_ms, 3)}


@dataclass(frozen=True, slots=True)
class Score:
    """One class of an answer. `index` is the class's number, None when the server gives none."""

    label: str
    score: float
    index: int | None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one prediction went, in milliseconds: parts that add up to `total`.

    `start` is what passed between the start of the deadline and that of the call: in a command, the
    start of the interpreter and its imports; in Python next to nothing. `queue`, `decode`, `run`
    and `encode` are the server's word, None when it says nothing of them. `receive` is the rest of
    the exchange: both ways over the network, what the server does not tell of, and looks at its
    metadata. `wait` are failed attempts and the pauses after them. `total` counts from the start
    of the deadline, so in a command from the start of the process.
    """

    start: float
    read: float
    connect: float
    queue: float | None
    decode: float | None
    run: float | None
    encode: float | None
    receive: float
    wait: float
    total: float

    def to_json(self) -> dict[str, float | None]:
        return {part: None if ms is None else round(ms, 3) for part, ms in asdict(self).items()}


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """The answer to one image.

    `scores` are the best classes, best first; empty when the server offers a label only. `version`
    is None when the server does not say which version answered. `api` is what was spoken: tfs
    (TensorFlow Serving, version 1) or oip (Open Inference Protocol, version 2).
    `has_random_weights` is True when the server says that its answers mean nothing. `retries` are
    the failed attempts before this answer. `request_id` and `trace_id` are in the server's log.
    `shortfall` says why there are fewer scores than were asked for; None when there are not.
    """

    label: str
    scores: tuple[Score, ...]
    model: str
    version: int | None
    endpoint: str
    protocol: str
    api: str
    timings: Timings
    has_random_weights: bool
    request_id: str
    trace_id: str
    retries: tuple[Retry, ...] = ()
    shortfall: str | None = None

    def __repr__(self) -> str:
        score = f", score={self.scores[0].score:.4g}" if self.scores else ""
        return (
            f"Prediction(label={self.label!r}{score}, model={self.model!r}, "
            f"version={self.version}, endpoint={self.endpoint!r})"
        )

    @property
    def attempts(self) -> int:
        """How often the server was asked."""
        return len(self.retries) + 1

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["timings"]
        return data | {
            "attempts": self.attempts,
            "retries": [retry.to_json() for retry in self.retries],
            "timings_ms": self.timings.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server says of a model: the version it would ask and its signatures, by name.

    Signatures with element types that no request can carry are left out. The Open Inference
    Protocol has no signatures: its one nameless function is called `infer`. mlserve's own servers
    take the name of a signature as a parameter there; `selectable` are those names. `contract` is
    what mlserve's own servers tell of a model that mlserve exported: its `pipeline`, and the
    `facts` of how each part of it is known.
    """

    model: str
    version: int | None
    signatures: tuple[Signature, ...]
    selectable: tuple[str, ...] = ()
    contract: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": self.version,
            "signatures": [signature.to_json() for signature in self.signatures],
            "contract": self.contract,
        }


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version: START, LOADING, AVAILABLE, UNLOADING, END or UNKNOWN.

    `error` is empty unless the version failed to load or is not ready. `version` is None for one
    without a number, as the Open Inference Protocol allows.
    """

    version: int | None
    state: str
    error: str

    @property
    def is_available(self) -> bool:
        return self.state == "AVAILABLE"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """What one of mlserve's servers does now: requests that run and wait, of all its models.

    `max_queue` is how many may wait; `default_timeout` is the deadline, in seconds, of a request
    that brings none.
    """

    running: int
    waiting: int
    max_queue: int
    default_timeout: float

    def __str__(self) -> str:
        return (
            f"{self.running} running, {self.waiting} waiting (at most {self.max_queue}); "
            f"a request without a deadline gets {self.default_timeout:g} s"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
