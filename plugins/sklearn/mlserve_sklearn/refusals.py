"""Which numbers an estimator refuses in which of its columns: NaN, infinity, what is too large.

Only its own steps know that. A conversion of it computes on, and gives an answer that means
nothing, so that whoever serves one has to refuse the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlserve.tensors import DType
from mlserve_sklearn.columns import Array
from mlserve_sklearn.inputs import Inputs

NUMBERS: Mapping[str, float] = {"nan": np.nan, "large": 1e39, "inf": np.inf}
"""A number of each kind; 1e39 is the least power of ten that float32 cannot hold."""
_FLOATS = (DType.FLOAT32, DType.FLOAT64)
Refused = Mapping[str, Mapping[str, Sequence[int]]]


def refused_numbers(
    inputs: Inputs, row: Mapping[str, Array], takes: Callable[[Mapping[str, Array]], bool]
) -> Refused:
    """Return the refused columns, by the kind of number and the name of the input.

    A column is its index in a matrix, and 0 in any other input. `row` is one row that the estimator
    takes; `takes` tells whether it takes another.
    """
    places = [
        (spec.name, index)
        for spec in inputs.specs
        if spec.dtype in _FLOATS
        for index in range((*(spec.shape or ()), 1)[1] or 1)
    ]
    dtypes = {spec.name: spec.dtype for spec in inputs.specs}
    found: dict[str, dict[str, list[int]]] = {}
    for kind, number in NUMBERS.items():
        with np.errstate(all="ignore"):  # numpy warns of such numbers
            refused = _refused(places, row, number, takes)
        for name, index in refused:
            if kind == "large" and dtypes[name] is DType.FLOAT32:
                continue  # it is infinite there
            found.setdefault(kind, {}).setdefault(name, []).append(index)
    return found


def _refused(
    places: Sequence[tuple[str, int]],
    row: Mapping[str, Array],
    number: float,
    takes: Callable[[Mapping[str, Array]], bool],
) -> list[tuple[str, int]]:
    """Return the places that refuse the number.

    Those of an eighth at a time: most estimators refuse it in all places or in none, and halves
    would be asked about almost as often as single places.
    """
    if not places or takes(_with(row, places, number)):
        return []
    if len(places) == 1:
        return list(places)
    size = -(-len(places) // 8)
    parts = (places[start : start + size] for start in range(0, len(places), size))
    return [place for part in parts for place in _refused(part, row, number, takes)]


def _with(
    row: Mapping[str, Array], places: Sequence[tuple[str, int]], number: float
) -> dict[str, Array]:
    changed = {name: array.copy() for name, array in row.items()}
    for name, index in places:
        changed[name].reshape(-1)[index] = number
    return changed
