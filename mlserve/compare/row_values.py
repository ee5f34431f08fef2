"""Compare one row's outputs from two targets: by name, text and whole numbers exactly, floats not.

The difference of two floats is that of `mlserve.differences.distances`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.compare.result import BAD_INPUT, are_refused_alike
from mlserve.differences import Array, distances
from mlserve.errors import shortened
from mlserve.percentiles import in_digits
from mlserve.rows.asking import Outcome, RowAnswer, RowError
from mlserve.rows.rendering import json_value

_NUMBERS = "biufc"
_FLOATS = "fc"


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """One output of one row in two targets, or (`output` None) a row that not both answered.

    `largest` and `mean` are over the elements: 0 if all are equal, infinite for what cannot be
    subtracted. `is_exact`: it is not of floats, so it is equal or it is not. `what` says in words
    where they are furthest apart; `value` and `reference` are what stands there, as JSON data.
    """

    output: str | None
    largest: float
    mean: float
    is_exact: bool
    what: str = ""
    value: Any = None
    reference: Any = None


def row_differences(reference: Outcome, outcome: Outcome) -> Iterator[OutputDifference]:
    """Yield a difference for each output of the row, the equal ones too.

    A row that both refused for the same reason has none.
    """
    if isinstance(outcome, RowError) or isinstance(reference, RowError):
        yield from _unanswered(reference, outcome)
        return
    for name, expected in reference.outputs.items():
        if name in outcome.outputs:
            yield output_difference(name, expected, outcome.outputs[name])
        else:
            yield _unlike(name, f"there is no output {name!r}, which the reference has")
    for name in outcome.outputs.keys() - reference.outputs.keys():
        yield _unlike(name, f"there is an output {name!r}, which the reference does not have")


def output_difference(name: str, reference: Any, other: Any) -> OutputDifference:
    """Return how far an output is from the reference's; both are arrays or single values."""
    one, two = _array(reference), _array(other)
    if one.shape != two.shape:
        what = f"{name} has the shape {list(two.shape)}, the reference {list(one.shape)}"
        return _unlike(name, what)
    kinds = one.dtype.kind + two.dtype.kind
    is_exact = not (set(kinds) <= set(_NUMBERS) and set(kinds) & set(_FLOATS))
    flat = one.reshape(-1), two.reshape(-1)
    far = _unequal(*flat) if is_exact else distances(*flat)
    largest = float(far.max(initial=0.0))
    if not largest:
        return OutputDifference(name, 0.0, 0.0, is_exact)
    at = int(far.argmax())
    return OutputDifference(
        name,
        largest,
        float(far.mean()),
        is_exact,
        _words(_element(name, one.shape, at), flat[0][at], flat[1][at], largest, is_exact=is_exact),
        _plain(flat[1][at]),
        _plain(flat[0][at]),
    )


def _unanswered(reference: Outcome, outcome: Outcome) -> Iterator[OutputDifference]:
    error = outcome.error if isinstance(outcome, RowError) else None
    expected = reference.error if isinstance(reference, RowError) else None
    if error and error.kind not in BAD_INPUT:
        yield _unlike(None, f"no answer: {error.message}")
    elif outcome is not reference and not are_refused_alike(error, expected):
        yield _unlike(None, f"{_said(outcome)}, the reference {_said(reference)}")


def _said(outcome: Outcome) -> str:
    if isinstance(outcome, RowAnswer):
        return "answered"
    return f"{outcome.error.kind} ({shortened(outcome.error.message)})"


def _unlike(output: str | None, what: str) -> OutputDifference:
    return OutputDifference(output, math.inf, math.inf, is_exact=True, what=what)


def _array(value: Any) -> Array:
    """Return the value as an array; text keeps its zero bytes, which numpy's own types drop."""
    if isinstance(value, str | bytes):
        return np.array(value, dtype=object)
    array: Array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array


def _unequal(one: Array, two: Array) -> Array:
    """Return infinity where the elements differ, else 0."""
    if one.dtype != two.dtype:  # int64 and uint64 have no common type that is exact
        one, two = one.astype(object), two.astype(object)
    return np.where(np.asarray(one != two, dtype=bool), np.inf, 0.0)


def _element(name: str, shape: tuple[int, ...], at: int) -> str:
    if not shape:
        return name
    return f"{name}[{', '.join(str(index) for index in np.unravel_index(at, shape))}]"


def _words(where: str, reference: Any, value: Any, largest: float, *, is_exact: bool) -> str:
    pair = f"{where}: {_shown(value)}, the reference {_shown(reference)}"
    if is_exact or math.isinf(largest):
        return pair
    kind = "relative difference" if abs(reference) > 1 else "difference"
    return f"{pair} ({kind} {in_digits(largest, 2)})"


def _shown(value: Any) -> str:
    plain = _plain(value)
    return f"'{shortened(plain)}'" if isinstance(plain, str) else shortened(str(plain))


def _plain(value: Any) -> Any:
    """Return the value as JSON data; a float32 has the digits that tell it from its neighbours."""
    return float(str(value)) if isinstance(value, np.floating) else json_value(value, None)
