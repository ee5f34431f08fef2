"""Refuse the numbers that the estimator refuses which an ONNX file was converted from.

The file itself would answer: a missing value becomes class 0, or whatever a comparison with NaN
makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.artifact import Artifact
from mlserve.errors import InvalidInput

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Array = np.ndarray[Any, Any]
_LARGEST = float(np.finfo(np.float32).max)
_IS: Mapping[str, tuple[Callable[[Array], Array], str]] = {
    "nan": (np.isnan, "takes no missing value there"),
    "inf": (np.isinf, "takes no infinity there"),
    "large": (
        lambda x: np.isfinite(x) & (np.abs(x) > _LARGEST),
        "takes nothing that float32 cannot hold",
    ),
}


class RefusedNumbers:
    """What an estimator refuses, as its export has found out; nothing for any other model."""

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        told = manifest.details.get("refused_numbers", {}) if manifest else {}
        self._columns: list[tuple[str, str, Sequence[int]]] = [
            (kind, name, columns) for kind in _IS for name, columns in told.get(kind, {}).items()
        ]
        self._names: Mapping[str, Sequence[str]] = manifest.columns if manifest else {}

    def check(self, inputs: Tensors) -> None:
        """Raise InvalidInput, naming the row and the column of a refused number."""
        for kind, name, columns in self._columns:
            is_meant, why = _IS[kind]
            values = inputs[name]
            found = is_meant(values if values.ndim == 1 else values[:, columns])
            if not found.any():
                continue
            row, *place = (int(at) for at in np.argwhere(found)[0])
            index = columns[place[0]] if place else 0
            value = values[(row, index) if place else row]
            raise InvalidInput(
                f"row {row}, column {self._column(name, index, is_matrix=bool(place))!r} is "
                f"{value}: the estimator {why}",
                hint="compare the rows with the signature: mlserve metadata",
            )

    def _column(self, name: str, index: int, *, is_matrix: bool) -> str:
        if not is_matrix:
            return name
        named = self._names.get(name, ())
        return named[index] if index < len(named) else f"x{index}"
