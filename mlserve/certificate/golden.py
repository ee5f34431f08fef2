"""Golden inputs: what a model was asked at export, and what its reference answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

Arrays = Mapping[str, np.ndarray[Any, Any]]

GOLDEN_FOLDER = "golden"
"""The folder inside a version's folder."""


@dataclass(frozen=True)
class GoldenCase:
    """One golden input: `inputs` to ask `signature` with, and the reference's outputs.

    Of an image classifier `signature` is the one that gives all classes, `inputs` hold one image
    file, and `expected` is {"scores": float32[1, classes]} in the order of the classes. `answered`
    are the artifact's own outputs where it was exported. `margin` is the best score less the second
    best; None for a model without scores.
    """

    name: str
    signature: str
    inputs: Arrays
    expected: Arrays
    answered: Arrays
    margin: float | None


def write_golden(cases: Sequence[GoldenCase], folder: Path) -> None:
    """Write the cases into `folder / GOLDEN_FOLDER`. Raises OSError."""
    raise NotImplementedError


def read_golden(folder: Path) -> tuple[GoldenCase, ...]:
    """Return the cases of the version in `folder`. Raises ModelLoadFailed for damaged files."""
    raise NotImplementedError
