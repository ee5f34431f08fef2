"""Outputs as columns of values: sizes are checked before a stranger's shape sizes our memory."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from mlserve.client.adapter import Answer, Column, Question, Value
from mlserve.client.answers import Score
from mlserve.client.refusals import Unreadable, readable
from mlserve.errors import InferenceFailed

_MOST_VALUES = 1_000_000
"""More values than any answer about one image has."""


def element_count(name: str, shape: tuple[int, ...]) -> int:
    """How many values an output of that shape has. Raises Unreadable for an absurd shape."""
    size = math.prod(shape)
    if min(shape, default=1) < 0 or size > _MOST_VALUES:
        raise Unreadable(f"an output {name!r}", f"a tensor of shape {list(shape)}")
    return size


def column(name: str, shape: tuple[int, ...], values: tuple[Value, ...]) -> Column:
    """The column. Raises Unreadable when the values are not as many as the shape says."""
    if len(values) != element_count(name, shape):
        raise Unreadable(f"an output {name!r} of shape {list(shape)}", f"{len(values)} values")
    return Column(shape, values)


def text(value: bytes) -> str:
    """A string element as text; bytes that are not UTF-8 are kept as lone surrogates."""
    return value.decode(errors="surrogateescape")


MOST_VALUES = 1_000_000
"""More values than an answer about one image or one model has. Each takes 60 to 230 bytes once it
is parsed, and nothing else of the process runs until all are."""
_BEFORE_A_VALUE = (b",", b"[", b"{")


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Unreadable."""
    data = parse_any_json(body)
    if not isinstance(data, dict):
        raise Unreadable("a JSON object", excerpt(body))
    return data


def parse_any_json(body: bytes) -> Any:
    """The JSON value in `body`. Raises Unreadable, for more than `MOST_VALUES` values too."""
    if sum(map(body.count, _BEFORE_A_VALUE)) > MOST_VALUES:
        raise Unreadable(f"JSON of at most {MOST_VALUES} values", excerpt(body))
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON", excerpt(body)) from error


def excerpt(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = body[:200].decode(errors="backslashreplace")
    return repr(text) + (f" ... ({len(body)} bytes)" if len(body) > len(text) else "")


def shown(value: Any) -> str:
    """A value of an answer for a message, however wide or deep it is."""
    return reprlib.repr(value)


Outputs = Mapping[str, Column]
_SURROGATE = re.compile("[\ud800-\udfff]")
"""What stands for a byte that is not UTF-8."""


def labelled(outputs: Outputs, top_k: int) -> tuple[str, tuple[Score, ...]]:
    """The best label and the `top_k` best scores, best first; none for a label only.

    Taken are `labels` and `scores` (and `indices`) of shape [1, k], or else one output with one
    string in it. Raises InferenceFailed, naming the outputs, for anything else, and for a label
    that is not UTF-8.
    """
    if {"labels", "scores"} <= outputs.keys():
        scores = _scores(outputs)
        return scores[0].label, scores[:top_k]
    label = _only_label(outputs)
    if label is None:
        raise _not_labels(outputs, "they have neither a single label nor labels with scores")
    _require_utf8(label)
    return label, ()


def shortfall(answer: Answer, question: Question) -> str | None:
    """Why the answer has fewer classes than the caller asked for; None when it does not."""
    wanted, classes = question.top_k, answer.classes
    if wanted is None or classes >= wanted:
        return None
    if not classes:
        return "the server gives a label without scores"
    if answer.has_all_classes:
        return f"the model has {classes} classes"
    return (
        f"the server gives only its best {classes} (models exported with this version of mlserve "
        "give all)"
    )


def _scores(outputs: Outputs) -> tuple[Score, ...]:
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


def _score(outputs: Outputs, label: object, score: object, index: object) -> Score:
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


def _only_label(outputs: Outputs) -> str | None:
    candidates = [column for column in outputs.values() if _holds_one_string(column)]
    if "output_0" in outputs and _holds_one_string(outputs["output_0"]):
        candidates = [outputs["output_0"]]
    return str(candidates[0].values[0]) if len(candidates) == 1 else None


def _holds_one_string(column: Column) -> bool:
    return len(column.values) == 1 and isinstance(column.values[0], str)


def _require_utf8(label: str) -> None:
    """Raises InferenceFailed, naming the bytes, for a label whose bytes are not UTF-8."""
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raw = _SURROGATE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", label)
        raise InferenceFailed(
            f"the server's label '{readable(raw)}' is not UTF-8 text",
            hint="write the model's labels as UTF-8, and serve it again",
        ) from error


def _not_labels(outputs: Outputs, why: str) -> InferenceFailed:
    shapes = ", ".join(
        f"{name or 'one output'}{list(column.shape)}" for name, column in sorted(outputs.items())
    )
    return InferenceFailed(
        f"the model's outputs are not labels: {why} (outputs: {shapes or 'none'})",
        hint="see them with mlserve metadata; mlserve export builds signatures that give labels",
    )
