"""The differences of two arrays; the only place of a comparison that needs numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.compare.result import STAGES, Difference, Stages

Array = np.ndarray[Any, Any]
_CHUNK = 1 << 22
"""Elements at a time: a photo of 24 megapixels is never turned into floats as a whole."""
_TOP_K = 5


def difference(reference: Array, other: Array) -> Difference:
    """The largest and mean absolute difference, infinite for other shapes and for NaN."""
    if reference.shape != other.shape:
        return Difference(math.inf, math.inf)
    if reference.size == 0:
        return Difference(0.0, 0.0)
    one, two = reference.reshape(-1), other.reshape(-1)
    largest = total = 0.0
    for start in range(0, one.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        apart = np.abs(one[part].astype(np.float64) - two[part].astype(np.float64))
        if not np.isfinite(apart).all():
            return Difference(math.inf, math.inf)
        largest, total = max(largest, float(apart.max())), total + float(apart.sum())
    return Difference(largest, total / one.size)


def compare_stages(reference: Path, other: Path) -> Stages:
    """The stages that two workers wrote for one image, into these folders."""
    pairs = {stage: (_load(reference, stage), _load(other, stage)) for stage in STAGES}
    ours, theirs = (_best(scores) for scores in pairs["scores"])
    return Stages(
        differences=_differences(pairs),
        has_same_top_1=ours[:1] == theirs[:1],
        has_same_order=ours == theirs,
    )


def _differences(pairs: Mapping[str, tuple[Array, Array]]) -> dict[str, Difference]:
    return {stage: difference(*pair) for stage, pair in pairs.items()}


def _load(folder: Path, stage: str) -> Array:
    array: Array = np.load(folder / f"{stage}.npy", mmap_mode="r", allow_pickle=False)
    return array


def _best(scores: Array) -> list[int]:
    """The best classes, best first; of equal scores the first class wins."""
    best: list[int] = np.argsort(-scores.reshape(-1), kind="stable")[:_TOP_K].tolist()
    return best
