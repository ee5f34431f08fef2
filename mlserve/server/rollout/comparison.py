"""Whether two versions gave the same answer to a request.

Both must have the same outputs, of the same shapes, and the same places without a number (NaN).
Then a classifier agrees in a row if the best class is the same. Of anything else text, whole
numbers and the best of scores decide; without any of them numbers do, within a tolerance.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from mlserve.certificate.verdict import difference
from mlserve.errors import shortened
from mlserve.server.rollout.tally import Arrays, Compared
from mlserve.server.tensors import Array
from mlserve.wire.rollouts import Side

TOLERANCE = 1e-3
"""By how much numbers may differ, relative to the largest of the output where that is above 1."""
TOP = 5
"""The best classes that are compared as a set."""
_DISTRIBUTIONS = ("scores", "probabilities")
"""Outputs whose best class is the answer, if they have no labels beside them."""
_FLOATS, _TEXTS = "fc", "OSU"
"""Kinds of numpy's dtypes."""
_MATRIX = 2
_SHOWN = 200
"""The most characters of a label that are kept, and of what differs."""


def compare(served: Arrays, other: Arrays) -> Compared:
    """Compare the outputs that a caller got with those of another version."""
    ours, theirs = _plain(served), _plain(other)
    sides = _side(ours), _side(theirs)
    if _has_classes(ours) and _has_classes(theirs):
        return Compared(_differing_class(ours, theirs), *sides, _has_same_top(ours, theirs))
    what = _other_form(ours, theirs) or _differing(ours, theirs)
    return Compared(shortened(what, _SHOWN), *sides, None)


def _plain(outputs: Arrays) -> dict[str, Array]:
    """Return the outputs in numpy's own types: it does not know bfloat16 as a number."""
    return {
        name: array.astype(np.float32) if array.dtype.kind == "V" else array
        for name, array in outputs.items()
    }


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
            shown = partial(_class_shown, has_number=one[0] == two[0])
            return f"{where}{shown(two)}, not {shown(one)}"
    return ""


def _best(outputs: Arrays) -> list[tuple[object, object, bool]]:
    """Return the best class of each row: its label, its number, and whether it has a score.

    Two classes may have one label. A row with a score that is NaN has no best class.
    """
    places = outputs["scores"].argmax(axis=1)  # the first NaN, if there is one
    numbers = outputs.get("indices")
    return [
        (
            _text(outputs["labels"][row, place]),
            None if numbers is None else numbers[row, place],
            not math.isnan(outputs["scores"][row, place]),
        )
        for row, place in enumerate(places)
    ]


def _class_shown(best: tuple[object, object, bool], *, has_number: bool) -> str:
    label, number, has_score = best
    which = f" (class {number})" if has_number and number is not None else ""
    return f"{_shown(label)}{which}" + ("" if has_score else " with the score NaN")


def _has_same_top(served: Arrays, other: Arrays) -> bool:
    count = min(TOP, served["scores"].shape[1], other["scores"].shape[1])
    tops = [_top(outputs, count) for outputs in (served, other)]
    return tops[0] == tops[1]


def _top(outputs: Arrays, count: int) -> list[set[object]]:
    order = np.argsort(-outputs["scores"], axis=1, kind="stable")[:, :count]
    return [set(map(_text, row)) for row in np.take_along_axis(outputs["labels"], order, axis=1)]


def _other_form(served: Arrays, other: Arrays) -> str:
    """Say which output only one of them has, or in what form they differ; empty if in none."""
    for name in sorted(served.keys() | other.keys()):
        ours, theirs = served.get(name), other.get(name)
        if ours is None or theirs is None:
            return f"there is {'no' if theirs is None else 'also an'} output {name}"
        if ours.shape != theirs.shape:
            return f"{name} has the shape {list(theirs.shape)}, not {list(ours.shape)}"
        if _is_text(ours) != _is_text(theirs):
            kinds = "text, not numbers" if _is_text(theirs) else "numbers, not text"
            return f"{name} is {kinds}"
        if not np.array_equal(_is_nan(ours), _is_nan(theirs)):
            return f"{name} is NaN in other places"
    return ""


def _differing(served: Arrays, other: Arrays) -> str:
    """Say what differs in answers of one form; empty if they agree."""
    exact = [name for name, array in served.items() if array.dtype.kind not in _FLOATS]
    scored = (name for name in _DISTRIBUTIONS if name in served and name not in exact)
    best = [name for name in scored if served[name].ndim > 1 and served[name].size]
    for name in exact:
        if what := _first_other(name, served[name], other[name]):
            return what
    for name in best:
        if not np.array_equal(served[name].argmax(axis=-1), other[name].argmax(axis=-1)):
            return f"the best of {name} is another"
    if exact or best or not served:
        return ""
    far = {name: difference(array, other[name]) for name, array in served.items()}
    name = max(far, key=lambda each: far[each])
    return f"{name} differs by {far[name]:.2g}" if far[name] > TOLERANCE else ""


def _first_other(name: str, ours: Array, theirs: Array) -> str:
    """Say where two arrays of text or of whole numbers first differ; empty if they do not."""
    if _is_text(ours):
        pairs = zip(ours.flat, theirs.flat, strict=True)
        place = next((at for at, (one, two) in enumerate(pairs) if _text(one) != _text(two)), None)
    else:
        places = np.flatnonzero(ours.ravel() != theirs.ravel())
        place = int(places[0]) if places.size else None
    if place is None:
        return ""
    index = [int(each) for each in np.unravel_index(place, ours.shape)] if ours.size > 1 else ""
    return f"{name}{index} is {_quoted(theirs.flat[place])}, not {_quoted(ours.flat[place])}"


def _is_text(array: Array) -> bool:
    return array.dtype.kind in _TEXTS


def _is_nan(array: Array) -> Array:
    is_float = array.dtype.kind in _FLOATS
    return np.isnan(array) if is_float else np.zeros(array.shape, np.bool_)


def _side(outputs: Arrays) -> Side:
    """Return the best class of the first row, as far as there is one."""
    if _has_classes(outputs) and len(outputs["scores"]):
        scores = outputs["scores"][0]
        return Side(_shown(outputs["labels"][0, int(scores.argmax())]), _finite(scores.max()))
    texts = [array for array in outputs.values() if _is_text(array) and array.size]
    numbers = [array for array in outputs.values() if array.dtype.kind in "iufb" and array.size]
    label = _shown(texts[0].flat[0]) if texts else None
    return Side(label, _finite(numbers[0].flat[0]) if numbers else None)


def _finite(number: float) -> float | None:
    """Return the number; None for one that JSON has no word for."""
    return float(number) if math.isfinite(number) else None


def _text(value: object) -> object:
    """Return text as bytes, as most Runners give it."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


def _shown(value: object) -> str:
    text = value[: 4 * _SHOWN] if isinstance(value, bytes | str) else str(value)
    return (text.decode(errors="replace") if isinstance(text, bytes) else text)[:_SHOWN]


def _quoted(value: object) -> str:
    return repr(_shown(value)) if isinstance(value, bytes | str) else _shown(value)
