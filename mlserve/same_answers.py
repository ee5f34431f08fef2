"""Whether two runtimes gave the same answer, where exact equality is too much to ask for."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253

from mlserve.certificate.golden import Arrays
from mlserve.certificate.verdict import LABEL, SCORES, difference

_DISTRIBUTIONS = (SCORES, "probabilities")
"""Outputs whose best class is the answer."""


def label_of(answer: Arrays) -> str:
    """Return the label of a classifier's answer."""
    text: bytes = answer[LABEL][0]
    return text.decode()


def differing(expected: Arrays, found: Arrays, tolerance: float) -> str:
    """Say what differs in an answer; empty if it agrees.

    Labels, whole numbers and the best class of scores decide, and floats of one number a row, which
    may differ by `tolerance`, as `Certificate.tolerance` counts it: beside an `id` that is handed
    on, a price is the answer. Without labels, whole numbers and scores, all floats decide.
    """
    missing = expected.keys() - found.keys()
    if missing:
        return f"there is no output {sorted(missing)[0]}"
    if LABEL in expected and SCORES in expected:  # one class may have the label of another
        return _of_classes(expected, found)
    exact = [name for name, array in expected.items() if array.dtype.kind not in "fc"]
    best = [name for name in expected if name in _DISTRIBUTIONS and _has_classes(expected[name])]
    for name in exact:
        if not np.array_equal(expected[name], found[name]):
            return f"{name} is {_shown(found[name])}, not {_shown(expected[name])}"
    for name in best:
        if not np.array_equal(expected[name].argmax(axis=-1), found[name].argmax(axis=-1)):
            return f"the best of {name} is another"
    says_class = bool(exact or best)
    far = {
        name: difference(array, found[name])
        for name, array in expected.items()
        if array.dtype.kind in "fc" and not (says_class and _has_classes(array))
    }
    name = max(far, key=lambda each: far[each], default="")
    return f"{name} differs by {far[name]:.2g}" if name and far[name] > tolerance else ""


def _has_classes(array: Any) -> bool:
    """Return whether a row has several numbers, such as one for each class."""
    return bool(array.ndim > 1 and array.shape[-1] > 1)


def _of_classes(expected: Arrays, found: Arrays) -> str:
    one, other = (int(answer[SCORES][0].argmax()) for answer in (expected, found))
    if one == other:
        return ""
    ours, theirs = label_of(found), label_of(expected)
    numbers = "" if ours != theirs else f" (class {other}, not {one})"
    score = float(expected[SCORES][0, one])
    return f"{ours!r}, not {theirs!r} with a score of {score:.3f}{numbers}"


def _shown(array: Any) -> str:
    value = array.flat[0] if array.size == 1 else array
    return repr(value.decode(errors="replace")) if isinstance(value, bytes) else str(value)
