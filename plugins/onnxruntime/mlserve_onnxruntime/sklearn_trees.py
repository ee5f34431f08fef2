"""Trees in ONNX that compare the numbers that the trees of their library compare.

The converters round thresholds to float32 and leave out where a missing value goes. scikit-learn's
trees compare float32 values with float64 thresholds; XGBoost's are float32 throughout; those of
HistGradientBoosting and LightGBM are float64. A threshold that is a little off gives the wrong
answer for just the values that lie on it, and these are common: prices, ages, counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree._tree import Tree

_ONLY_FLOAT = ("SVMClassifier", "SVMRegressor")
"""Other operators that ONNX Runtime has for float32 only."""
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_FLOATS = ("nodes_values", "nodes_hitrates", "class_weights", "target_weights", "base_values")
"""Attributes that a tree with float64 thresholds must all have as float64 tensors."""
Array = np.ndarray[Any, Any]


class TreeNumbers:
    """The thresholds of an estimator's trees, as its library keeps them."""

    def __init__(self, parts: Iterable[Any]) -> None:
        self._trees: list[Tree] = []
        self._exact: dict[tuple[int, np.float32], float] = {}
        """float64 thresholds by column and float32 value, of the libraries that compare float64."""
        for part in parts:
            if isinstance(part, Tree):
                self._trees.append(part)
            for column, threshold in _double_thresholds(part):
                self._exact[column, np.float32(threshold)] = threshold

    def corrected(self, node: Any, element: int) -> Iterator[Any]:
        """Yield the node of an ONNX graph; a tree with its own numbers, and with casts around it.

        Its scores are float32 by the rules of ONNX; they leave as `element`, the type of the other
        numbers in the graph.
        """
        if node.op_type not in (*_TREES, *_ONLY_FLOAT):
            yield node
            return
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        taken = TensorProto.FLOAT
        if node.op_type in _TREES:
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if not self._set_from_trees(changed, values) and self._set_exact(changed, values):
                taken = TensorProto.DOUBLE
        changed.input[0] = f"{node.input[0]}_for_{node.name}"
        yield helper.make_node("Cast", [node.input[0]], [changed.input[0]], to=taken)
        scores = node.output[-1]
        changed.output[-1] = f"{scores}_float"
        yield changed
        yield helper.make_node("Cast", [changed.output[-1]], [scores], to=element)

    def _set_from_trees(self, node: Any, values: dict[str, Any]) -> bool:
        """Set the numbers of trees of scikit-learn; return False if the node holds others."""
        ids = np.asarray(values["nodes_treeids"])
        numbers = np.asarray(values["nodes_values"], dtype=np.float32)
        missing = np.zeros(len(ids), dtype=np.int64)
        for each in np.unique(ids):
            mine = ids == each
            tree = self._tree_like(
                numbers[mine],
                np.asarray(values["nodes_featureids"])[mine],
                np.asarray(values["nodes_truenodeids"])[mine],
            )
            if tree is None:
                return False
            inner = tree.children_left != -1
            numbers[mine] = np.where(inner, _rounded_down(tree.threshold), 0)
            missing[mine] = np.where(inner, tree.missing_go_to_left, 0)
        _set(node, "nodes_values", numbers.tolist())
        _set(node, "nodes_missing_value_tracks_true", missing.tolist())
        return True

    def _tree_like(self, numbers: Array, columns: Array, left: Array) -> Tree | None:
        for tree in self._trees:
            inner = tree.children_left != -1
            if (
                len(inner) == len(numbers)
                and np.array_equal(left[inner], tree.children_left[inner])
                and np.array_equal(columns[inner], tree.feature[inner])
                and np.allclose(numbers[inner], tree.threshold[inner], rtol=1e-5, atol=1e-30)
            ):
                return tree
        return None

    def _set_exact(self, node: Any, values: dict[str, Any]) -> bool:
        """Set float64 thresholds; return False if they are not of a library that has these."""
        thresholds = []
        for mode, column, value in zip(
            values["nodes_modes"], values["nodes_featureids"], values["nodes_values"], strict=True
        ):
            exact = value if mode == b"LEAF" else self._exact.get((column, np.float32(value)))
            if exact is None:
                return False
            thresholds.append(exact)
        for name in _FLOATS:
            given = thresholds if name == "nodes_values" else values.get(name)
            if given is not None and len(given):
                _remove(node, name)
                tensor = numpy_helper.from_array(np.asarray(given, dtype=np.float64), name)
                node.attribute.append(helper.make_attribute(f"{name}_as_tensor", tensor))
        return True


def _double_thresholds(part: Any) -> Iterator[tuple[int, float]]:
    """Yield (column, threshold) of the trees that are compared in float64."""
    if isinstance(part, TreePredictor):
        nodes = part.nodes[part.nodes["is_leaf"] == 0]
        yield from zip(nodes["feature_idx"].tolist(), nodes["num_threshold"].tolist(), strict=True)
    elif type(part).__module__ == "lightgbm.basic" and hasattr(part, "dump_model"):
        for tree in part.dump_model()["tree_info"]:
            open_ends = [tree["tree_structure"]]
            while open_ends:
                node = open_ends.pop()
                if "threshold" in node:
                    yield node["split_feature"], float(node["threshold"])
                    open_ends += [node["left_child"], node["right_child"]]


def _rounded_down(thresholds: Array) -> Array:
    """Return the largest float32 numbers that are not above: `x <= t` is the same for float32 x."""
    singles = thresholds.astype(np.float32)
    below = np.nextafter(singles, np.float32(-np.inf))
    return np.where(singles.astype(np.float64) > thresholds, below, singles)


def _set(node: Any, name: str, value: Any) -> None:
    _remove(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _remove(node: Any, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
