"""NaN and infinity in a model that was converted: it may answer them as its original never would.

Runtimes agree on numbers, but not on these: where PyTorch's ReLU gives NaN for NaN, another's gives
0, and a missing value becomes an answer that looks like any other. So the export tries them, and a
conversion refuses what it answers in another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np  # noqa: TID253

from mlserve.differences import Array, Arrays, different_output
from mlserve.errors import InvalidInput, MlserveError

SPECIALS = {"nan": (math.nan,), "inf": (math.inf, -math.inf)}
"""The numbers of each kind."""
Run = Callable[[Arrays], Arrays]


def changed_specials(
    inputs: Arrays, original: Run, converted: Run, tolerance: float
) -> tuple[str, ...]:
    """Return the kinds of SPECIALS that the conversion answers in another way, or alone.

    `inputs` are some that both take. Each float input gets the number in its middle, then in all
    places: infinities of one sign make a sum infinite, and of both signs NaN.
    """
    floats = [name for name, array in inputs.items() if array.dtype.kind == "f" and array.size]
    return tuple(
        kind
        for kind, numbers in SPECIALS.items()
        if any(
            _is_changed(_with(inputs, name, number, places), original, converted, tolerance)
            for name in floats
            for number in numbers
            for places in (inputs[name].size // 2, slice(None))
        )
    )


def require_answered(refused: Collection[str], inputs: Arrays, framework: str) -> None:
    """Raise InvalidInput, with its place, for a number of the `refused` kinds."""
    for kind in refused:
        for name, array in inputs.items():
            found = _find(kind, array)
            if found is not None:
                raise InvalidInput(
                    f"input '{name}' has {array[found]}{f' at {list(found)}' if found else ''}, "
                    f"which the model converted to {framework} answers in another way than the "
                    "original",
                    hint="fill in missing values, or serve the model with the backend of its own "
                    "framework",
                )


def _find(kind: str, array: Array) -> tuple[int, ...] | None:
    if array.dtype.kind != "f":
        return None
    is_one = np.isnan(array) if kind == "nan" else np.isinf(array)
    return tuple(int(at) for at in np.argwhere(is_one)[0]) if is_one.any() else None


def _with(inputs: Arrays, name: str, number: float, places: int | slice) -> dict[str, Array]:
    array = inputs[name].copy()
    array.reshape(-1)[places] = number
    return {**inputs, name: array}


def _is_changed(inputs: Arrays, original: Run, converted: Run, tolerance: float) -> bool:
    try:
        with np.errstate(all="ignore"):
            found = converted(inputs)
    except MlserveError:
        return False
    try:
        with np.errstate(all="ignore"):
            expected = original(inputs)
    except MlserveError:
        return True
    return different_output(expected, found, tolerance) is not None
