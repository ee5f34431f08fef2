"""Results of the client: predictions, model metadata, version states.

The last part chooses the label of a prediction among a model's outputs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlserve.client.tensor import Tensor
from mlserve.deadline import in_words
from mlserve.errors import InferenceFailed, readable
from mlserve.tensors import Signature
from mlserve.wire.headers import DRIFTED

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Stands for a byte that is not valid UTF-8."""


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """The answer to one image.

    `scores` are the best classes, best first; empty if the server offers only a label. `version` is
    None if the server does not say which version answered. `api` is what was spoken: tfs
    (TensorFlow Serving, version 1), oip (Open Inference Protocol, version 2) or torchserve.
    `has_random_weights` is True if the server says that its answers are meaningless. `retries` are
    the failed attempts before this answer. `request_id` and `trace_id` are in the server's log.
    `shortfall` says why there are fewer scores than requested, else None. `has_all_classes`:
    `scores` are known to be those of all classes. `served_by` is what answered: the runtime, its
    precision and device, and whether the model's certificate holds there, separated by `; `. None
    if the server does not say, as no server but mlserve's does. `rungs` are those of a ladder that
    answered, such as `fp32`, or `int8;uncertain` where the next rung may give another label (see
    `is_uncertain`); None without a ladder.
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
    has_all_classes: bool = False
    served_by: str | None = None
    rungs: str | None = None

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

    @property
    def is_uncertain(self) -> bool:
        """Whether a ladder had no time for the next rung, which may give another label."""
        return has_uncertain(self.rungs)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["timings"], data["has_all_classes"]
        return data | {
            "attempts": self.attempts,
            "retries": [retry.to_json() for retry in self.retries],
            "timings_ms": self.timings.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Score:
    """One class of an answer. `index` is the class's number, None if the server gives none."""

    label: str
    score: float
    index: int | None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one prediction went, in milliseconds: parts that add up to `total`.

    `start` is the time between the start of the deadline and that of the call: in a command,
    starting the interpreter and its imports; in Python almost nothing. `read` is reading the image,
    or checking and converting the inputs. `queue`, `decode`, `run` and
    `encode` are reported by the server, None if it does not report them. `receive` is the rest of
    the exchange: the network in both directions, unreported server time, and requests for metadata.
    `wait` is failed attempts and the pauses after them. `total` counts from the start of the
    deadline, so in a command from the start of the process.
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


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed attempt: its error, and the wait before the next attempt."""

    kind: str
    message: str
    waited_ms: float

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "waited_ms": round(self.waited_ms, 3)}


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model as the server describes it: the version it would ask and its signatures, by name.

    Signatures with element types that no request can carry are left out. The Open Inference
    Protocol has no signatures: its one nameless function is called `infer`. mlserve's own servers
    accept the name of a signature as a parameter there; `selectable` are those names. `contract` is
    what mlserve's own servers add for a model that mlserve exported: its `pipeline`, and the
    `facts` of how each part of it is known. `served_by` is that of `Prediction`.
    """

    model: str
    version: int | None
    signatures: tuple[Signature, ...]
    selectable: tuple[str, ...] = ()
    contract: Mapping[str, Any] | None = None
    served_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": self.version,
            "signatures": [signature.to_json() for signature in self.signatures],
            "contract": self.contract,
            "served_by": self.served_by,
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
class VersionProcesses:
    """The processes in which a server runs a version: their ids, and how many died so far."""

    model: str
    version: int
    pids: tuple[int, ...]
    restarts: int

    def __str__(self) -> str:
        pids = ", ".join(map(str, self.pids)) or "none is alive"
        died = f"; {self.restarts} died and were replaced" if self.restarts else ""
        return f"version {self.version} of {self.model} runs in {len(self.pids)} ({pids}){died}"


@dataclass(frozen=True, slots=True)
class VersionLadder:
    """The rungs that answer for a version, the cheapest first: their names and versions.

    `policy` is what becomes of uncertain answers: answer or refuse.
    """

    model: str
    version: int
    rungs: tuple[tuple[str, str], ...]
    policy: str

    def __str__(self) -> str:
        rungs = ", then ".join(f"{name} ({version})" for name, version in self.rungs)
        return f"{self.model} is answered by {rungs}; uncertain answers: {self.policy}"


@dataclass(frozen=True, slots=True)
class VersionServing:
    """What runs a version: runtime, precision, device and the state of its certificate.

    `golden` says how its golden inputs are answered there, empty if it has none. `fault` says which
    are answered wrong.
    """

    model: str
    version: int
    by: str
    golden: str = ""
    fault: str = ""

    def __str__(self) -> str:
        golden = f"; {self.golden}" if self.golden else ""
        return f"{self.model} version {self.version} runs on {self.by}{golden}"


@dataclass(frozen=True, slots=True)
class CallerPatience:
    """How long callers of one kind wait that set no deadline, as their server has seen.

    Nearly all of them wait `seconds`. `is_known` says that enough were seen to hang up after that;
    otherwise they may wait much longer. `left` and `stayed` count those that hung up and those that
    took their answer. An empty `transport` or `agent` (the user agent) stands for any.
    """

    transport: str
    agent: str
    seconds: float
    is_known: bool
    left: int
    stayed: int

    def __str__(self) -> str:
        wait = "hang up after" if self.is_known else "wait at least"
        over = f" over {self.transport}" if self.transport else ""
        agent = f" ({self.agent})" if self.agent else ""
        return (
            f"callers{over}{agent} without a deadline {wait} {in_words(self.seconds)}; seen: "
            f"{self.left} that hung up, {self.stayed} that did not"
        )


@dataclass(frozen=True, slots=True)
class RecordingState:
    """How a server's recording goes: `problem` says why nothing can be written, empty if it can.

    `lost` requests are missing, and `bodies_lost` bodies or answers of others.
    """

    problem: str
    recorded: int
    lost: int
    bodies_lost: int

    def __str__(self) -> str:
        counts = f"{self.recorded} requests recorded, {self.lost} lost"
        if self.bodies_lost:
            counts += f", {self.bodies_lost} bodies or answers left out"
        return f"stopped: {self.problem}; {counts}" if self.problem else counts


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """The load of an mlserve server: running and waiting requests of all its models.

    `slots` is how many run at once, and `max_queue` how many may wait; None if only time and memory
    bound the queue. `default_timeout` is the deadline, in seconds, of a request
    without one. `processes` has the versions that run in processes of their own, `ladders` those
    that are on a ladder, and `serving` says of each what runs it. `patience` says how long callers
    wait, coarse kinds before their finer ones. `recording` is None for a server that records
    nothing.
    """

    running: int
    waiting: int
    max_queue: int | None
    default_timeout: float
    slots: int = 1
    processes: tuple[VersionProcesses, ...] = ()
    ladders: tuple[VersionLadder, ...] = ()
    serving: tuple[VersionServing, ...] = ()
    patience: tuple[CallerPatience, ...] = ()
    recording: RecordingState | None = None

    def __str__(self) -> str:
        most = "" if self.max_queue is None else f" (at most {self.max_queue})"
        return (
            f"{self.running} running, {self.waiting} waiting{most}; "
            f"a request without a deadline gets {self.default_timeout:g} s"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_line(text: str) -> str | None:
    """Return what a server says of its answer, as a terminal may show it; None for none."""
    return readable(text) or None


def has_uncertain(rungs: str | None) -> bool:
    """Return whether the rungs of an answer have a row that another rung may answer otherwise.

    `rungs` is a list of RFC 8941, such as `int8, fp32;rows=2, int8;uncertain`.
    """
    items = (rungs or "").split(",")
    return any("uncertain" in item.split(";")[1:] for item in items)


def has_drifted(served_by: str | None) -> bool:
    """Return whether the server says that the model's certificate does not hold there."""
    return served_by is not None and DRIFTED in served_by.split("; ")


def read_contract(text: str) -> Mapping[str, Any] | None:
    """Return the contract in a server's JSON; None for anything but a JSON object."""
    try:
        contract = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return contract if isinstance(contract, dict) else None


Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of one request by name, and what the server reports about them.

    REST drops the name of a single output, which is then the empty string. `version` is the one
    that answered, None if the server does not say. `has_random_weights`, `served_by`, `rungs` and
    `server_ms`, the server's time by stage, come from headers of mlserve's servers; `server_ms` is
    empty from any other. `has_all_classes`: the model is known to have no more classes than the
    answer. `signature` is the one that `infer` asked; empty for a nameless function.
    """

    outputs: Tensors
    version: int | None
    has_random_weights: bool = False
    server_ms: Mapping[str, float] = field(default_factory=dict)
    has_all_classes: bool = False
    signature: str = ""
    served_by: str | None = None
    rungs: str | None = None

    @property
    def classes(self) -> int:
        """Number of classes with scores; 0 for an answer in another form."""
        labels = self.outputs.get("labels")
        return labels.shape[-1] if labels and labels.shape and "scores" in self.outputs else 0


def choose_label(outputs: Tensors, top_k: int) -> tuple[str, tuple[Score, ...]]:
    """Return the best label and the `top_k` best scores, best first; no scores for a label only.

    Reads `labels` and `scores` (and `indices`) of shape [1, k], or else one output with one string
    in it. Raises InferenceFailed, naming the outputs, for anything else, and for a label that is
    not UTF-8.
    """
    if {"labels", "scores"} <= outputs.keys():
        scores = _scores(outputs)
        return scores[0].label, scores[:top_k]
    label = _only_label(outputs)
    if label is None:
        raise _not_labels(outputs, "they have neither a single label nor labels with scores")
    _require_utf8(label)
    return label, ()


def shortfall(answer: Answer, top_k: int | None) -> str | None:
    """Return why the answer has fewer classes than the caller asked for, else None."""
    classes = answer.classes
    if top_k is None or classes >= top_k:
        return None
    if not classes:
        return "the server gives a label without scores"
    if answer.has_all_classes:
        return f"the model has {classes} classes"
    return (
        f"the server gives only its best {classes} (models exported with this version of mlserve "
        "give all)"
    )


def _scores(outputs: Tensors) -> tuple[Score, ...]:
    labels, scores = outputs["labels"], outputs["scores"]
    indices = outputs.get("indices")
    columns = [labels, scores] if indices is None else [labels, scores, indices]
    size = len(labels.values)
    if not size or any(column.shape != (1, size) for column in columns):
        raise _not_labels(outputs, "they are not of one shape [1,k]")
    numbers = indices.values if indices else (None,) * size
    rows = [
        _score(outputs, *row) for row in zip(labels.values, scores.values, numbers, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: -row.score))


def _score(outputs: Tensors, label: object, score: object, index: object) -> Score:
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if not isinstance(label, str) or not is_number or not isinstance(index, int | None):
        raise _not_labels(
            outputs, f"{label!r}, {score!r}, {index!r} is not a label, a score and an index"
        )
    _require_utf8(label)
    value = float(str(score))
    if not math.isfinite(value):
        raise _not_labels(outputs, f"the score of {label} is {value}")
    return Score(label, value, index)


def _only_label(outputs: Tensors) -> str | None:
    candidates = [column for column in outputs.values() if _holds_one_string(column)]
    if "output_0" in outputs and _holds_one_string(outputs["output_0"]):
        candidates = [outputs["output_0"]]
    return str(candidates[0].values[0]) if len(candidates) == 1 else None


def _holds_one_string(column: Tensor) -> bool:
    return column.count == 1 and isinstance(next(iter(column.values), None), str)


def _require_utf8(label: str) -> None:
    """Raise InferenceFailed, naming the bytes, for a label that is not valid UTF-8."""
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raw = _SURROGATE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", label)
        raise InferenceFailed(
            f"the server's label '{readable(raw)}' is not UTF-8 text",
            hint="write the model's labels as UTF-8, and serve it again",
        ) from error


def _not_labels(outputs: Tensors, why: str) -> InferenceFailed:
    shapes = ", ".join(
        f"{name or 'one output'}{list(column.shape)}" for name, column in sorted(outputs.items())
    )
    return InferenceFailed(
        f"the model's outputs are not labels: {why} (outputs: {shapes or 'none'})",
        hint="see them with mlserve metadata; mlserve export builds signatures that give labels",
    )
