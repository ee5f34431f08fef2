"""Run a fitted estimator: rows in, labels, probabilities or numbers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.base import is_classifier, is_outlier_detector, is_regressor
from threadpoolctl import ThreadpoolController

from mlserve.backend import RunsOn, require_one_length
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, bounded, reason_of
from mlserve.precision import NATIVE
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve_sklearn.columns import Array
from mlserve_sklearn.inputs import Inputs
from mlserve_sklearn.parts import parts_of

if TYPE_CHECKING:
    from mlserve.backend import Tensors

LABEL, PROBABILITIES, PREDICTION, SCORE = "label", "probabilities", "prediction", "score"
_UNKNOWN = "unknown categories"
"""How the errors of scikit-learn's encoders begin: `Found unknown categories ['q'] in column 0`."""
_LARGEST = np.uint64(np.iinfo(np.int64).max)
_TRACE = "\nStack trace:"
"""What comes behind XGBoost's own words."""
_THREADS = 1
"""Threads of one call. The server runs as many calls at once as it has threads; with two threads
inside each call, a forest of 100 trees takes 27 ms for one row instead of 4."""


class SklearnRunner:
    """An estimator behind one signature. Fitted estimators may be called by several threads."""

    def __init__(self, estimator: Any, inputs: Inputs) -> None:
        self.estimator = estimator
        self.inputs = inputs
        self.signatures: Mapping[str, Signature] = {}
        self._pools = ThreadpoolController()
        for part, _ in parts_of(estimator):
            if "n_jobs" in getattr(part, "__dict__", ()):
                part.n_jobs = _THREADS

    @property
    def runs_on(self) -> RunsOn:
        """The version of scikit-learn; the estimator computes in the numbers it was fitted in."""
        return RunsOn(f"scikit-learn {sklearn.__version__}", NATIVE, "CPU")

    def learn(self, sample: Tensors) -> None:
        """Run a few rows to learn the outputs of the signature. Raises what `run` raises."""
        outputs = tuple(
            TensorSpec(name, _dtype(array), (None, *array.shape[1:]))
            for name, array in self.answers(sample).items()
        )
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, self.inputs.specs, outputs)
        }

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs. Raises InvalidInput for rows that the estimator does not take."""
        return self.answers(inputs)

    def answers(self, inputs: Tensors) -> dict[str, Array]:
        """Return the outputs by name, strings as bytes. Raises InvalidInput and InferenceFailed."""
        require_one_length(inputs)
        rows = self.inputs.rows(inputs)
        try:
            with self._pools.limit(limits=_THREADS):
                return dict(_outputs(self.estimator, rows))
        except (ValueError, TypeError, KeyError) as error:
            raise self._refused(inputs, error) from error
        except MlserveError:
            raise
        except Exception as error:  # estimators of other libraries have errors of their own
            raise InferenceFailed(
                f"the estimator failed: {reason_of(error)}",
                hint="call the estimator's predict on the same rows in Python, to see where",
            ) from error

    def close(self) -> None:
        self.estimator = None

    def _refused(self, inputs: Tensors, error: Exception) -> InvalidInput:
        """Return the estimator's own words, with the place of the first value that may be meant."""
        why = bounded(str(error).partition(_TRACE)[0])
        for name, values in self.inputs.split(inputs).items():
            row = next((i for i, value in enumerate(values) if _is_meant(value, why)), None)
            if row is not None:
                why = f"row {row}, column {name!r} is {_shown(values[row])}: {why}"
                break
        return InvalidInput(
            f"the estimator does not take these rows: {why}",
            hint="compare the rows with the signature: mlserve metadata",
        )


def _is_meant(value: Any, why: str) -> bool:
    """Return whether the estimator's words can be about that value: not a number, or a category."""
    if isinstance(value, bytes):
        return _UNKNOWN in why and repr(value.decode()) in why
    return isinstance(value, float | np.floating) and not np.isfinite(value)


def _shown(value: Any) -> str:
    return bounded(repr(value.decode())) if isinstance(value, bytes) else str(value)


def task_of(estimator: Any) -> str:
    """Return what the estimator does: `classifier`, `regressor`, `outlier-detector` or `other`."""
    if is_classifier(estimator):
        return "classifier"
    if is_regressor(estimator):
        return "regressor"
    return "outlier-detector" if is_outlier_detector(estimator) else "other"


def _outputs(estimator: Any, rows: Any) -> Iterator[tuple[str, Array]]:
    scoring = getattr(estimator, "predict_proba", None)
    if scoring is None and task_of(estimator) == "outlier-detector":
        scoring = estimator.decision_function
    # A step with `copy=False` overwrites what the first method is given: the second has its own.
    again = None if scoring is None else rows.copy()
    predicted = _dense(estimator.predict(rows))
    has_classes = hasattr(estimator, "classes_")
    if task_of(estimator) == "regressor" or (predicted.dtype.kind == "f" and not has_classes):
        yield PREDICTION, predicted.astype(np.float64)
        return
    yield LABEL, _labels(predicted, getattr(estimator, "classes_", ()))
    if scoring is None:
        return
    scores = scoring(again)
    if not hasattr(estimator, "predict_proba"):
        yield SCORE, np.asarray(scores, dtype=np.float64)
    elif not isinstance(scores, list):
        yield PROBABILITIES, np.asarray(scores, dtype=np.float64)
    else:  # of several targets, each with its own classes
        for i, each in enumerate(scores):
            yield f"{PROBABILITIES}_{i}", np.asarray(each, dtype=np.float64)


def _dense(predicted: Any) -> Array:
    """Return what was predicted as an array: several labels may come as a sparse matrix."""
    return np.asarray(predicted.toarray() if hasattr(predicted, "toarray") else predicted)


def _labels(predicted: Array, classes: Any) -> Array:
    """Return labels as int64, bool, or bytes. scikit-learn's classes are never fractions.

    If one of the `classes` is beyond int64, all labels are uint64.
    """
    if predicted.dtype.kind == "b":
        return predicted
    if predicted.dtype == np.uint64 and np.max(classes, initial=np.uint64(0)) > _LARGEST:
        return predicted
    if predicted.dtype.kind in "iuf":
        return predicted.astype(np.int64)
    labels = np.empty(predicted.size, dtype=object)
    labels[:] = [str(label).encode() for label in predicted.flat]
    return labels.reshape(predicted.shape)


def _dtype(array: Array) -> DType:
    return DType.BYTES if array.dtype == object else DType.from_label(array.dtype.name)
