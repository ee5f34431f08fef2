"""Whether two versions gave the same answer to a request.

A classifier agrees in a row if the best class is the same. Anything else agrees as exports below
fp32 do with their reference (`mlserve.same_answers`): text, whole numbers and the best of scores
decide, and without any of them numbers do, within a tolerance.
"""

from __future__ import annotations

import numpy as np

from mlserve.same_answers import differing
from mlserve.server.rollout.tally import Arrays, Compared
from mlserve.wire.rollouts import Side

TOLERANCE = 1e-3
"""By how much numbers may differ, relative to the largest of the output where that is above 1."""
TOP = 5
"""The best classes that are compared as a set."""
_MATRIX = 2
_SHOWN = 200


def compare(served: Arrays, other: Arrays) -> Compared:
    """Compare the outputs that a caller got with those of another version."""
    sides = _side(served), _side(other)
    if _has_classes(served) and _has_classes(other):
        return Compared(_differing_class(served, other), *sides, _has_same_top(served, other))
    what = _other_shape(served, other) or differing(served, other, TOLERANCE)
    return Compared(what, *sides, None)


def _has_classes(outputs: Arrays) -> bool:
    """Return whether each row has classes with scores, such as `ranking` gives."""
    labels, scores = outputs.get("labels"), outputs.get("scores")
    if labels is None or scores is None or labels.shape != scores.shape:
        return False
    return scores.ndim == _MATRIX and scores.shape[1] > 0 and scores.dtype.kind == "f"


def _differing_class(served: Arrays, other: Arrays) -> str:
    ours, theirs = _best(served), _best(other)
    if len(ours) != len(theirs):
        return f"{len(theirs)} rows, not {len(ours)}"
    for row, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        if one != two:
            where = f"row {row}: " if len(ours) > 1 else ""
            return f"{where}{_shown(two[0])}, not {_shown(one[0])}"
    return ""


def _best(outputs: Arrays) -> list[tuple[object, object]]:
    """Return the best class of each row: its label and, as one may have two, its number."""
    places = outputs["scores"].argmax(axis=1)
    rows = range(len(places))
    numbers = outputs.get("indices")
    return [
        (
            outputs["labels"][row, places[row]],
            None if numbers is None else numbers[row, places[row]],
        )
        for row in rows
    ]


def _has_same_top(served: Arrays, other: Arrays) -> bool:
    count = min(TOP, served["scores"].shape[1], other["scores"].shape[1])
    tops = [_top(outputs, count) for outputs in (served, other)]
    return tops[0] == tops[1]


def _top(outputs: Arrays, count: int) -> list[set[object]]:
    order = np.argsort(-outputs["scores"], axis=1, kind="stable")[:, :count]
    return [set(labels) for labels in np.take_along_axis(outputs["labels"], order, axis=1)]


def _other_shape(served: Arrays, other: Arrays) -> str:
    for name, array in served.items():
        found = other.get(name)
        if found is not None and found.shape != array.shape:
            return f"{name} has the shape {list(found.shape)}, not {list(array.shape)}"
    return ""


def _side(outputs: Arrays) -> Side:
    """Return the best class of the first row, as far as there is one."""
    if _has_classes(outputs) and len(outputs["scores"]):
        scores = outputs["scores"][0]
        return Side(_shown(outputs["labels"][0, int(scores.argmax())]), float(scores.max()))
    texts = [array for array in outputs.values() if array.dtype == object and array.size]
    numbers = [array for array in outputs.values() if array.dtype.kind in "iufb" and array.size]
    label = _shown(texts[0].flat[0]) if texts else None
    return Side(label, float(numbers[0].flat[0]) if numbers else None)


def _shown(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text[:_SHOWN]
