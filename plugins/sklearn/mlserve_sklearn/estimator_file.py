"""Read a fitted estimator from a skops, joblib or pickle file.

Neither format has a field for scikit-learn's version, but each estimator's state holds it as
`_sklearn_version` (BaseEstimator.__getstate__), which is read here before anything is made of the
file. Estimators of XGBoost and LightGBM keep no version of their library.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from mlserve.errors import ExportError, bounded, reason_of
from mlserve_sklearn import tree_checks
from mlserve_sklearn.parts import parts_of
from mlserve_sklearn.skops_files import skops_io

_log = logging.getLogger(__name__)

SCIKIT_LEARN = "scikit-learn"
"""The distribution, as it is named in `TensorModel.libraries`."""
_LIBRARIES = {"sklearn": SCIKIT_LEARN, "xgboost": "xgboost", "lightgbm": "lightgbm"}
_IN_SKOPS = re.compile(r'"_sklearn_version":\s*\{[^{}]*"content":\s*"\\"([^"\\]+)')
_IN_PICKLE = re.compile(rb"_sklearn_version[^0-9]{1,4}?(?:\x8c.|X.\0\0\0|V)(\d[\w.+]*)", re.DOTALL)

_KERNELS = (
    *("CompoundKernel", "ConstantKernel", "DotProduct", "ExpSineSquared", "Exponentiation"),
    *("Matern", "PairwiseKernel", "Product", "RBF", "RationalQuadratic", "Sum", "WhiteKernel"),
)
_SPLITS = ("GroupKFold", "KFold", "RepeatedKFold", "ShuffleSplit", "StratifiedKFold")
_XGBOOST = ("XGBClassifier", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker", "XGBRegressor")
_LIGHTGBM = ("LGBMClassifier", "LGBMRanker", "LGBMRegressor")

_SCORES = ("chi2", "f_classif", "f_oneway", "f_regression", "r_regression")

TRUSTED = (
    *tree_checks.TYPES,
    *(f"sklearn.gaussian_process.kernels.{name}" for name in _KERNELS),
    *(f"sklearn.model_selection._split.{name}" for name in _SPLITS),
    *(f"sklearn.metrics._dist_metrics.{name}Distance64" for name in ("Euclidean", "Manhattan")),
    *(f"sklearn.feature_selection._univariate_selection.{name}" for name in _SCORES),
    *(
        f"sklearn.feature_selection._mutual_info.mutual_info_{of}"
        for of in ("classif", "regression")
    ),
    *(f"sklearn.impute._iterative.{name}" for name in ("IterativeImputer", "_ImputerTriplet")),
    "builtins.object",
    "collections.OrderedDict",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.cluster._bisect_k_means._BisectingTree",
    "sklearn.cluster._kmeans._kmeans_single_elkan",
    "sklearn.cluster._kmeans._kmeans_single_lloyd",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._search_successive_halving.HalvingGridSearchCV",
    "sklearn.model_selection._search_successive_halving.HalvingRandomSearchCV",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils.validation.check_array",
    "functools.partial",
    "numpy.dtype",
    "numpy.number",
    "xgboost.core.Booster",
    *(f"xgboost.sklearn.{name}" for name in _XGBOOST),
    "lightgbm.basic.Booster",
    *(f"lightgbm.sklearn.{name}" for name in _LIGHTGBM),
)
"""Types that hold data only, and functions that only compute.

They come beside those that skops itself trusts, which are most estimators.
"""


def read_estimator(
    path: Path, *, allow_pickle: bool, trusted: Sequence[str], allow_mismatch: bool
) -> tuple[Any, dict[str, str]]:
    """Return the estimator in the file, and the versions of libraries that its file names.

    Raises ExportError for a file that is damaged, is not trusted or is of another version, and for
    a pickle unless `allow_pickle`.
    """
    if path.suffix == ".skops":
        version = _require_found(_skops_versions(path), allow_mismatch)
        with _quiet():
            return skops_loaded(path.read_bytes(), trusted), version
    if not allow_pickle:
        raise ExportError(
            f"{path.name} is a pickle, which can run any code when it is read: it needs "
            "--allow-pickle",
            hint="save the estimator with skops.io.dump(estimator, 'model.skops'); only if you "
            "trust whoever made the file, add --allow-pickle",
        )
    found = {match.decode() for match in _IN_PICKLE.findall(path.read_bytes())}
    version = _require_found(found, allow_mismatch)
    with _quiet() as caught:
        try:
            estimator = joblib.load(path)  # it reads plain pickles too
        except Exception as error:  # a pickle runs whatever it likes
            raise ExportError(
                f"{path.name} cannot be read: {reason_of(error)}",
                hint="read it with the versions of Python and the libraries that wrote it, and "
                "save it with skops; a class of your own must be importable here",
            ) from error
    # A compressed file shows its version only now.
    told = [item.message for item in caught]
    late = {w.original_sklearn_version for w in told if isinstance(w, InconsistentVersionWarning)}
    return estimator, _require_found(late, allow_mismatch) or version


def skops_loaded(data: bytes, trusted: Sequence[str]) -> Any:
    """Return the estimator in the bytes of a skops file. Raises ExportError."""
    try:
        untrusted = set(skops_io.get_untrusted_types(data=data)) - {*TRUSTED, *trusted}
        if not untrusted:
            estimator = skops_io.loads(data, trusted=[*TRUSTED, *trusted])
            tree_checks.check_trees(estimator)
            return estimator
    except Exception as error:  # skops does not document what it raises for damaged files
        raise ExportError(
            f"the file cannot be read: {reason_of(error)}", hint="save the estimator again"
        ) from error
    names = ",".join(sorted(untrusted))
    raise ExportError(
        f"the file holds types that are not known to be safe, and not in --trusted-types: "
        f"{names.replace(',', ', ')}",
        hint=f"if you know what they do and trust whoever made the file: --trusted-types {names}",
    )


def require_same(library: str, saved: Mapping[str, str], *, allow_mismatch: bool) -> None:
    """Raise ExportError, or warn, if `saved` names another version than is installed."""
    module = next(module for module, name in _LIBRARIES.items() if name == library)
    here = str(importlib.import_module(module).__version__)
    other = saved.get(library, here)
    if other == here:
        return
    what = f"the estimator was saved with {library} {bounded(other)}, and {here} is installed"
    if not allow_mismatch:
        raise ExportError(
            f"{what}: its answers may differ, which needs --allow-version-mismatch",
            hint=f"pip install {library}=={bounded(other)}, or train it again; to take it all the "
            "same, add --allow-version-mismatch",
        )
    _log.warning("%s: its answers may differ", what)


def libraries_of(estimator: object) -> dict[str, str]:
    """Return the installed versions of the libraries that the estimator's classes are from."""
    modules = {type(part).__module__.partition(".")[0] for part, _ in parts_of(estimator)}
    return {
        name: str(sys.modules[module].__version__)
        for module, name in _LIBRARIES.items()
        if module in modules
    }


def _skops_versions(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            schema = archive.read("schema.json").decode()
            json.loads(schema)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, RecursionError) as error:
        raise ExportError(
            f"{path.name} is not a whole skops file: {reason_of(error)}",
            hint="write it with skops.io.dump(estimator, 'model.skops')",
        ) from error
    return set(_IN_SKOPS.findall(schema))


def _require_found(versions: set[str], allow_mismatch: bool) -> dict[str, str]:
    """Return scikit-learn's version among those in a file: one that is not installed, if any."""
    if not versions:
        return {}
    others = sorted(versions - {sklearn.__version__})
    found = {SCIKIT_LEARN: others[0] if others else sklearn.__version__}
    require_same(SCIKIT_LEARN, found, allow_mismatch=allow_mismatch)
    return found


def _quiet() -> Any:
    """Collect warnings: the version has been judged, and the rest is about old pickles."""
    return warnings.catch_warnings(record=True, action="always")
