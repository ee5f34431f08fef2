"""Whether an answer says the same as the one that was recorded: its labels, and all its values.

Answers of both protocols, in every form, are made plain data first: rows of values by output.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from mlserve.client.adapter import Reply
from mlserve.client.oip_grpc import OipGrpc
from mlserve.client.oip_rest import OipRest
from mlserve.client.tensor import Tensor, nested
from mlserve.client.tfs_grpc import TfsGrpc
from mlserve.errors import MlserveError, readable
from mlserve.recording.records import Kind, RecordedRequest, Sampled
from mlserve.replay.paths import verb_of
from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.proto import serving_pb2

TOLERANCE = 1e-4
"""How far numbers may be apart that are the same: relative above 1, else absolute."""
_ABOUT = frozenset({"model_spec", "model_name", "model_version", "id", "parameters"})
"""What an answer says beside its values."""
_RESULTS = {
    "Classify": serving_pb2.ClassificationResponse,
    "Regress": serving_pb2.RegressionResponse,
    "MultiInference": serving_pb2.MultiInferenceResponse,
}
_BEST = ("labels", "scores")
_USUAL = "output_0"
_SHOWN = 60
_UNREADABLE = (
    *(MlserveError, DecodeError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, OSError, struct.error),
)
"""What reading and comparing answers raises that are not of the protocol."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How the answer to the request of that number differs from the recorded one.

    `distance` is that of the numbers furthest apart, infinite where the answers have another form
    or another text. `before` and `now` are the labels, None for answers without any.
    """

    index: int
    distance: float
    arrived: float = 0.0
    is_label_changed: bool = False
    before: str | None = None
    now: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "request": self.index,
            "arrived": round(self.arrived, 6),
            "distance": self.distance if math.isfinite(self.distance) else None,
            "label": self.before,
            "replayed_label": self.now,
        }


@dataclass(slots=True)
class Agreement:
    """How many recorded answers there were, how many were compared, and what differs.

    `labelled` of the compared ones had labels. `unreadable` recorded ones cannot be read.
    `identical` have the same bytes.
    """

    recorded: int = 0
    compared: int = 0
    labelled: int = 0
    identical: int = 0
    unreadable: int = 0
    largest: float = 0.0
    differences: list[Difference] = field(default_factory=list)

    @property
    def label_changes(self) -> list[Difference]:
        """The answers with another label."""
        return [each for each in self.differences if each.is_label_changed]

    @property
    def label_share(self) -> float | None:
        """The share of the answers with labels that have the same; None if there are none."""
        if not self.labelled:
            return None
        return (self.labelled - len(self.label_changes)) / self.labelled

    @property
    def output_share(self) -> float | None:
        """The share of the compared answers with all values the same; None if there are none."""
        same = self.compared - len(self.differences)
        return same / self.compared if self.compared else None

    def to_json(self) -> dict[str, Any]:
        """Return it as data, with the first hundred differences, changes of labels first."""
        worst = sorted(self.differences, key=lambda each: not each.is_label_changed)
        return {
            "recorded": self.recorded,
            "compared": self.compared,
            "identical": self.identical,
            "unreadable": self.unreadable,
            "with_labels": self.labelled,
            "same_labels": None if not self.labelled else self.labelled - len(self.label_changes),
            "same_outputs": self.compared - len(self.differences),
            "largest_distance": self.largest if math.isfinite(self.largest) else None,
            "tolerance": TOLERANCE,
            "differences": [each.to_json() for each in worst[:100]],
        }


def agreement(
    requests: Sequence[RecordedRequest], found: Mapping[int, tuple[Mapping[str, str], bytes]]
) -> Agreement:
    """Compare the answers that were found, by the number of their request, with the recorded.

    Only the two of one request are in memory at once.
    """
    result = Agreement()
    for index, request in enumerate(requests):
        if request.sample is None or not request.sample.has_answer:
            continue
        result.recorded += 1
        if index in found:
            _compare(result, index, request, request.sample, found)
    return result


def _compare(
    result: Agreement,
    index: int,
    request: RecordedRequest,
    sample: Sampled,
    found: Mapping[int, tuple[Mapping[str, str], bytes]],
) -> None:
    """Compare one answer. One that cannot be read now differs in everything."""
    try:
        recorded = sample.answer or b""
        before = values_of(request.kind, sample.answer_headers, recorded)
        labels = labels_of(before)
    except _UNREADABLE:
        result.unreadable += 1
        return
    distance, labels_now = math.inf, None
    try:
        headers, body = found[index]
        now = values_of(request.kind, headers, body)
        labels_now = labels_of(now)
        distance = 0.0 if before == now else distance_of(before, now)
        result.identical += recorded == body
    except _UNREADABLE:
        distance = math.inf
    result.compared += 1
    result.labelled += labels is not None
    result.largest = max(result.largest, distance)
    is_changed = labels is not None and labels != labels_now
    if distance > TOLERANCE or is_changed:
        told = _told(labels, labels_now)
        result.differences.append(
            Difference(index, distance, request.arrived, is_changed, *told),
        )


def _told(before: Sequence[str] | None, now: Sequence[str] | None) -> tuple[str | None, str | None]:
    """Return the labels in words: those that changed, if some did."""
    if before is None:
        return None, None
    if now is not None and len(now) == len(before) and now != before:
        changed = [(one, two) for one, two in zip(before, now, strict=True) if one != two]
        before, now = [one for one, _ in changed], [two for _, two in changed]
    return _joined(before), _joined(now)


def _joined(labels: Sequence[str] | None) -> str:
    return readable(", ".join(labels))[:_SHOWN] if labels else "none"


def values_of(kind: Kind, headers: Mapping[str, str], body: bytes) -> Any:
    """Return what an answer says as plain data. Raises one of `_UNREADABLE`."""
    if kind.transport == "grpc":
        return _of_message(kind, body)
    if JSON_LENGTH in headers:
        return _of_tensors(OipRest().read_answer(Reply(body, headers), is_bounded=False).outputs)
    data = json.loads(body)
    if isinstance(data, dict) and kind.api == "oip" and isinstance(data.get("outputs"), list):
        return {each["name"]: _nested(each["shape"], each["data"]) for each in data["outputs"]}
    if isinstance(data, dict):
        return {name: value for name, value in data.items() if name not in _ABOUT}
    return data


def _of_message(kind: Kind, body: bytes) -> Any:
    verb, reply = verb_of(kind), Reply(body)
    if verb == "Predict":
        return _of_tensors(TfsGrpc().read_answer(reply, is_bounded=False).outputs)
    if verb == "ModelInfer":
        return _of_tensors(OipGrpc().read_answer(reply, is_bounded=False).outputs)
    message: Any = _RESULTS[verb]()
    message.ParseFromString(body)
    data = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return {name: value for name, value in data.items() if name not in _ABOUT}


def _of_tensors(outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: _nested(tensor.shape, tensor.values) for name, tensor in outputs.items()}


def _nested(shape: Sequence[int], values: Sequence[Any]) -> Any:
    if math.prod(shape) != len(values):
        return list(values)
    return nested(tuple(shape), values) if values else []


def labels_of(data: Any) -> list[str] | None:
    """Return the label of each row of an answer; None if it has none.

    That is the best of `labels` by `scores`, or the only text of a row.
    """
    found = [_label(row) for row in _rows(data)]
    return None if not found or None in found else [str(label) for label in found]


def _rows(data: Any) -> Iterator[Any]:
    """Yield the rows: what stands at each place of all outputs."""
    if not isinstance(data, dict):
        return
    if len(data) == 1 and (rows := data.get("predictions", data.get("results"))) is not None:
        yield from rows
        return
    outputs = data.get("outputs", data)
    if not isinstance(outputs, dict):
        outputs = {_USUAL: outputs}
    if all(isinstance(value, list) for value in outputs.values()):
        sizes = {len(value) for value in outputs.values()}
        if len(sizes) == 1:
            for at in range(sizes.pop()):
                yield {name: value[at] for name, value in outputs.items()}
            return
    yield outputs


def _label(row: Any) -> str | None:
    if isinstance(row, dict) and not _is_b64(row):
        if all(isinstance(row.get(name), list) and row[name] for name in _BEST):
            pairs = zip(row["scores"], row["labels"], strict=False)
            return _text(max(pairs, key=lambda pair: (_number(pair[0]), ""))[1])
        texts = [text for value in row.values() if (text := _text(value)) is not None]
        usual = _text(row.get(_USUAL))
        return usual if usual is not None else (texts[0] if len(texts) == 1 else None)
    if isinstance(row, list) and row and all(_is_scored(each) for each in row):
        return _text(max(row, key=lambda each: _number(each[1]))[0])
    return _text(row)


def _is_scored(value: Any) -> bool:
    """Return whether it is a class of Classify over REST: a label and a score."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)  # noqa: PLR2004


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -math.inf


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if _is_b64(value):
        try:
            return base64.b64decode(value["b64"]).decode(errors="surrogateescape")
        except (binascii.Error, TypeError, ValueError):
            return None
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    return None


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def distance_of(before: Any, now: Any) -> float:
    """Return how far the numbers are apart that are furthest; infinity for anything else.

    Relative to the recorded number where that is above 1. NaN equals NaN.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        if before.keys() != now.keys():
            return math.inf
        return max((distance_of(before[name], now[name]) for name in before), default=0.0)
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        if len(before) != len(now):
            return math.inf
        return max(map(distance_of, before, now), default=0.0)
    if _is_number(before) and _is_number(now):
        return _apart(before, now)
    return 0.0 if before == now else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _apart(before: float, now: float) -> float:
    if before == now or (math.isnan(before) and math.isnan(now)):
        return 0.0
    far = abs(now - before) / max(1.0, abs(before))
    return math.inf if math.isnan(far) else far
