"""Converters that skl2onnx lacks: of XGBoost and LightGBM, and of imputers in float64 and text."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common import shape_calculator
from skl2onnx.common.data_types import StringTensorType
from skl2onnx.common.utils import check_input_and_output_numbers
from skl2onnx.operator_converters.common import concatenate_variables
from sklearn.ensemble import VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.tree._tree import Tree

_OPTIONS = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
_BOOSTERS = {
    "xgboost": (
        "onnxmltools.convert.xgboost.operator_converters.XGBoost",
        "convert_xgboost",
        ("XGBClassifier", "XGBRFClassifier", "XGBRegressor", "XGBRFRegressor"),
    ),
    "lightgbm": (
        "onnxmltools.convert.lightgbm.operator_converters.LightGbm",
        "convert_lightgbm",
        ("LGBMClassifier", "LGBMRegressor"),
    ),
}


def register(libraries: frozenset[str]) -> None:
    """Tell skl2onnx of the imputer, and of the estimators of those of `libraries` it lacks."""
    update_registered_converter(
        SimpleImputer, "MlserveSimpleImputer", _shape_of_imputed, _convert_imputer
    )
    for library, (module, function, names) in _BOOSTERS.items():
        if library not in libraries:
            continue
        convert = getattr(importlib.import_module(module), function)
        for name in names:
            is_classifier = name.endswith("Classifier")
            kind = "classifier" if is_classifier else "regressor"
            update_registered_converter(
                getattr(importlib.import_module(library), name),
                f"Mlserve{name}",
                getattr(shape_calculator, f"calculate_linear_{kind}_output_shapes"),
                convert,
                options=_OPTIONS if is_classifier else None,
            )


def ready(estimator: Any, parts: Callable[[Any], Iterable[Any]]) -> Any:
    """Return a copy that the converters take.

    XGBoost's knows columns by number only; that of voting refuses a parameter of `transform`. That
    of trees never ends at an infinite threshold, which tells missing values from all others; the
    thresholds in the graph are those of the estimator itself (`sklearn_trees`).
    """
    copied = copy.deepcopy(estimator)
    for part in parts(copied):
        if type(part).__module__ == "xgboost.core" and hasattr(part, "feature_names"):
            part.feature_names = None
        if isinstance(part, Tree):
            part.threshold[np.isinf(part.threshold)] = np.finfo(np.float32).max
        if isinstance(part, VotingClassifier):
            part.flatten_transform = False
    return copied


def _shape_of_imputed(operator: Any) -> None:
    check_input_and_output_numbers(operator, input_count_range=[1, None], output_count_range=1)
    imputer = operator.raw_operator
    kind = type(operator.inputs[0].type)
    operator.outputs[0].type = kind([None, len(imputer.statistics_)])


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Replace NaN, or empty strings, by the fitted statistics, in the type of the input.

    The ONNX operator `Imputer` keeps float32 statistics, and ONNX Runtime has it for float32 only.
    """
    imputer = operator.raw_operator
    if imputer.add_indicator or np.any(imputer.statistics_ != imputer.statistics_):
        raise NotImplementedError("SimpleImputer with add_indicator, or with an empty column")
    source = concatenate_variables(scope, operator.inputs, container)
    is_text = isinstance(operator.inputs[0].type, StringTensorType)
    filled, gaps = (scope.get_unique_variable_name(name) for name in ("filled", "gaps"))
    statistics = imputer.statistics_
    if is_text:
        empty = scope.get_unique_variable_name("empty")
        container.add_initializer(
            filled, TensorProto.STRING, [1, len(statistics)], list(statistics)
        )
        container.add_initializer(empty, TensorProto.STRING, [1], [""])
        container.add_node("Equal", [source, empty], gaps, op_version=19)
    else:
        element = operator.inputs[0].type._get_element_onnx_type()  # noqa: SLF001 - no other way
        container.add_initializer(filled, element, [1, len(statistics)], list(statistics))
        container.add_node("IsNaN", [source], gaps, op_version=13)
    container.add_node(
        "Where", [gaps, filled, source], operator.outputs[0].full_name, op_version=16
    )
