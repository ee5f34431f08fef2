"""Convert a fitted estimator of scikit-learn, XGBoost or LightGBM, and check the conversion.

skl2onnx converts the estimator; `sklearn_graph` puts its own signature around the result. ONNX
Runtime must then answer the probe rows as the estimator does: they lie on its thresholds, where
conversions go wrong. The variants of a conversion are tried until one passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from skl2onnx import convert_sklearn
from skl2onnx.common import data_types
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.pipeline import Pipeline

from mlserve.differences import Arrays, distances
from mlserve.errors import ExportError, MlserveError, reason_of
from mlserve.load_options import LoadOptions
from mlserve.sources import TensorModel
from mlserve.tensors import DType, Signature
from mlserve_onnxruntime import sklearn_converters
from mlserve_onnxruntime.runner import OnnxRunner
from mlserve_onnxruntime.same_answers import TOLERANCE
from mlserve_onnxruntime.sessions import Sessions
from mlserve_onnxruntime.sklearn_graph import OPSETS, Variant, with_signature
from mlserve_onnxruntime.sklearn_trees import TreeNumbers

_VECTORIZERS = (CountVectorizer, TfidfVectorizer)
_LOCALE = "C.UTF-8"
"""ONNX Runtime needs a locale of the system to lower the case of text; en_US may be absent."""
_HINT = "serve the estimator itself: --backend sklearn"
_TYPES = {
    DType.FLOAT64: data_types.DoubleTensorType,
    DType.FLOAT32: data_types.FloatTensorType,
    DType.INT64: data_types.Int64TensorType,
    DType.BOOL: data_types.BooleanTensorType,
    DType.BYTES: data_types.StringTensorType,
}


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with a variant, and for how many of the probe rows."""

    why: str
    rows: float = np.inf


def write_sklearn(model: TensorModel, file: Path) -> Sequence[Signature]:
    """Convert the estimator, write it as an ONNX file, and check its answers.

    Raises ExportError when it cannot be converted, or when labels differ, or scores by more than
    `TOLERANCE`.
    """
    sklearn_converters.register(frozenset(model.libraries))
    expected = model.content.runner.answers(model.content.probes)
    faults = []
    for variant in Variant:
        try:
            _write(model, variant, file)
            fault = _difference(_answers(model, file), expected)
        except MlserveError as error:
            fault = _Fault(f"ONNX Runtime does not run it: {error.message}")
        except Exception as error:  # noqa: BLE001 - skl2onnx and its converters raise anything
            fault = _Fault(f"skl2onnx does not convert it: {reason_of(error)}")
        if fault is None:
            return model.signatures
        faults.append(fault)
    file.unlink(missing_ok=True)
    nearest = min(faults, key=lambda fault: fault.rows)
    raise ExportError(f"{model.name} cannot be exported as ONNX: {nearest.why}", hint=_HINT)


def _write(model: TensorModel, variant: Variant, file: Path) -> None:
    (signature,) = model.signatures
    estimator, columns = model.content.estimator, _columns(model)
    types = _initial_types(signature, variant, columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = _converted(sklearn_converters.ready(estimator, model.content.parts), types)
    trees = TreeNumbers(model.content.parts(estimator))
    proto = with_signature(proto, signature, variant, columns, trees)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(file))


def _converted(estimator: Any, types: Sequence[tuple[str, Any]]) -> Any:
    """Return skl2onnx' conversion, with scores as tensors. Raises what converters raise.

    Some converters have no option for the scores, as theirs are a tensor (NameError), and that of
    GaussianMixture takes one opset only (TypeError).
    """
    usual: dict[Any, Any] = {kind: {"locale": _LOCALE} for kind in _VECTORIZERS}
    tensors = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else {}
    first: Exception | None = None
    for options, opset in product((usual | tensors, usual), (OPSETS, OPSETS[""])):
        try:
            return convert_sklearn(
                estimator, initial_types=list(types), options=options, target_opset=opset
            )
        except (NameError, TypeError) as error:
            first = first or error
    raise first or AssertionError("nothing was tried")


def _columns(model: TensorModel) -> Sequence[str]:
    """Return the columns of the matrix if the conversion must take them by name; else none."""
    first = model.content.estimator
    while isinstance(first, Pipeline) or hasattr(first, "best_estimator_"):
        first = first.steps[0][1] if isinstance(first, Pipeline) else first.best_estimator_
    return next(iter(model.columns.values()), ()) if isinstance(first, ColumnTransformer) else ()


def _initial_types(
    signature: Signature, variant: Variant, columns: Sequence[str]
) -> list[tuple[str, Any]]:
    types = []
    for spec in signature.inputs:
        is_number = spec.dtype in (DType.FLOAT64, DType.FLOAT32)
        kind = _TYPES[variant.dtype if is_number else spec.dtype]
        width = spec.shape[1] if spec.shape and len(spec.shape) > 1 else 1
        if columns:
            types += [(name, kind([None, 1])) for name in columns]
        else:
            types.append((spec.name, kind([None, width])))
    return types


def _answers(model: TensorModel, file: Path) -> Arrays:
    runner = OnnxRunner(
        Sessions(file, LoadOptions(provider="cpu", instances=1)), model.signatures[0]
    )
    answers = runner.run(model.signatures[0].name, model.content.probes)
    runner.close()
    return answers


def _difference(given: Arrays, expected: Arrays) -> _Fault | None:
    """Return how the answers differ, or None."""
    for name, theirs in expected.items():
        ours, rows = given[name], len(theirs)
        if ours.shape != theirs.shape:
            return _Fault(f"{name} has the shape {ours.shape}, not {theirs.shape}")
        differs, by = _differing(ours, theirs)
        if differs.any():
            count = int(differs.reshape(rows, -1).any(axis=1).sum())
            return _Fault(f"{name} differs in {count} of {rows} test rows{by}", count)
    return None


def _differing(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> tuple[Any, str]:
    if theirs.dtype.kind != "f":
        return ours != theirs, ""
    far = distances(theirs, ours)
    largest = far.max(initial=0)
    return far > TOLERANCE, f", by up to {largest:.2g}" if np.isfinite(largest) else ""
