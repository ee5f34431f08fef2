"""What the answers of an artifact may differ from those of its reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np  # noqa: TID253

from mlserve.certificate.golden import GoldenCase
from mlserve.certificate.verdict import LABEL, SCORES
from mlserve.precision import Precision

TOLERANCE = 1e-4
"""The most that fp32 may differ from the reference: runtimes sum in different orders."""
_FLOORS = {
    Precision.FP32: 3e-5,
    Precision.BF16: 1e-2,
    Precision.FP16: 1e-3,
    Precision.INT8: 1e-2,
}
"""The least tolerance of a precision, however near the artifact was at export, as a share of the
largest score: scores of 0.001 each do not differ by 0.0001 unless something is wrong."""
OWN_TOLERANCES = {Precision.INT8: 2e-2}
"""What answers may differ from those at the export. Sums of integers are exact: ONNX Runtime and
OpenVINO gave the same on every CPU with AVX2 (docs/parity.md), and differed by 0.007 with SSE4.2.
Sums that saturate on another CPU moved scores by 0.7."""
_ROOM, _ROOM_OF_FP32 = 2.0, 20.0
"""How much farther than at export another machine may be from the reference."""


def tolerance_of(precision: Precision, measured: float, largest: float = 1.0) -> float:
    """Return what an artifact may differ, whose largest difference at export was `measured`.

    `largest` is the largest score of the reference; 1 for outputs that are not scores. An infinite
    difference, as from a number to NaN, allows no more than none.
    """
    floor = _FLOORS[precision] * min(1.0, largest)
    if not np.isfinite(measured):
        return floor
    if precision is Precision.FP32:
        return min(TOLERANCE, max(floor, _ROOM_OF_FP32 * measured))
    return max(floor, _ROOM * measured)


def coarse_steps(cases: Sequence[GoldenCase]) -> float:
    """Return two steps of the coarsest type of number of the answers: 0.002 for float16."""
    types = {array.dtype for case in cases for array in case.expected.values()}
    return 2 * max((float(np.finfo(each).eps) for each in types if each.kind in "fc"), default=0.0)


def largest_score(cases: Sequence[GoldenCase]) -> float:
    """Return the largest score of the reference, 1 for a model with other outputs too.

    Of either sign: all logits of an input can be negative, and those of log_softmax are.
    """
    if not all({SCORES, LABEL} == set(case.expected) for case in cases):
        return 1.0
    sizes = np.abs(np.concatenate([case.expected[SCORES].ravel() for case in cases]))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0))
