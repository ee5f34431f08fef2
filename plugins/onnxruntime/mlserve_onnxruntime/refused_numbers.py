"""Refuse the numbers that the model refuses, or answers otherwise, which a file was converted from.

The file itself would answer: a missing value becomes class 0, or whatever a comparison with NaN
makes of it. What an estimator refuses is in the manifest; of other models, the file's own metadata
say which kinds of numbers it answers otherwise (`mlserve.special_numbers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.artifact import Artifact
from mlserve.errors import InvalidInput
from mlserve.special_numbers import require_answered

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Array = np.ndarray[Any, Any]
_KEY = "mlserve.refuses"
"""The key of the file's metadata whose value is the kinds, as in "nan,inf"."""
_LARGEST = float(np.finfo(np.float32).max)
_IS: Mapping[str, tuple[Callable[[Array], Array], str]] = {
    "nan": (np.isnan, "takes no missing value there"),
    "inf": (np.isinf, "takes no infinity there"),
    "large": (
        lambda x: np.isfinite(x) & (np.abs(x) > _LARGEST),
        "takes nothing that float32 cannot hold",
    ),
}


def note_refused(file: Path, kinds: Sequence[str]) -> None:
    """Write the kinds into the metadata of the ONNX file."""
    import onnx  # which serving does not need

    proto = onnx.load(str(file), load_external_data=False)
    onnx.helper.set_model_props(proto, {_KEY: ",".join(kinds)})
    onnx.save(proto, str(file))


class RefusedNumbers:
    """What is refused, as the export has found out; nothing for a model of somebody else.

    `metadata` are those of the file.
    """

    def __init__(self, artifact: Artifact, metadata: Mapping[str, str]) -> None:
        self._kinds = tuple(filter(None, metadata.get(_KEY, "").split(",")))
        manifest = artifact.manifest
        told = manifest.details.get("refused_numbers", {}) if manifest else {}
        self._columns: list[tuple[str, str, Sequence[int]]] = [
            (kind, name, columns) for kind in _IS for name, columns in told.get(kind, {}).items()
        ]
        self._names: Mapping[str, Sequence[str]] = manifest.columns if manifest else {}

    def check(self, inputs: Tensors) -> None:
        """Raise InvalidInput, naming the row and the column of a refused number."""
        require_answered(self._kinds, inputs, "ONNX")
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
