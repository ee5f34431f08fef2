"""How far the outputs of two runs are apart, element by element and as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np  # noqa: TID253

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

_TOLERANCE = 1e-3
_ROUNDING = 1e-6


def distances(reference: Array, other: Array) -> Array:
    """Return how far each number is from its reference: infinite where only one is finite.

    The distance is absolute up to a reference of 1, and relative to it above. NaN equals NaN.
    """
    wide = np.complex128 if "c" in reference.dtype.kind + other.dtype.kind else np.float64
    expected, found = reference.astype(wide), other.astype(wide)
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.asarray(np.abs(found - expected) / np.maximum(1.0, np.abs(expected)))
    far[np.isnan(far)] = np.inf
    far[(found == expected) | (np.isnan(found) & np.isnan(expected))] = 0.0
    return far


def different_output(expected: Arrays, found: Arrays, tolerance: float = _TOLERANCE) -> str | None:
    """Return the name of the first output that differs; None if none does.

    Floats may differ by `tolerance` relative to the largest of the output. All else is exact.
    """
    for name, array in expected.items():
        if not _is_close(array, found[name], tolerance):
            return name
    return None


def _is_close(expected: Array, found: Array, tolerance: float) -> bool:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, found))
    finite = np.abs(expected[np.isfinite(expected)])
    allowed = tolerance * float(finite.max(initial=0)) + _ROUNDING
    return bool(np.allclose(found, expected, rtol=0, atol=allowed, equal_nan=True))
